"""The run folder: the one module that knows which files a run has, where they are, and how to read them."""

import contextlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.files import write_json, write_text
from keras_efficientnet.labels import read_labels
from keras_efficientnet.locks import LockedError, locking

MODEL = "model.keras"


class Preempted(Exception):
    """A run was stopped before its last step. The same command resumes it from its latest checkpoint.

    Defined here and not in `training`, so that main.py can catch it before it imports TensorFlow.
    """


class RunFolder:
    """The files of one run. A path that does not exist yet is valid: the run has not started.

    Example:
        >>> RunFolder("runs/efficientnet-b0").model.as_posix()
        'runs/efficientnet-b0/model.keras'

    Args:
        path: the run folder, the `model_dir` of main.py.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).expanduser()
        # options and class names
        self.config = self.path / "config.json"
        self.labels = self.path / "labels.txt"
        # state
        self.checkpoints = self.path / "checkpoints"
        self.archive = self.path / "archive"
        self._best = self.archive / "best_eval.json"  # names the best step; other files in archive/ do not count
        # reports
        self.log = self.path / "log.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.results = self.path / "results.json"
        self.evaluation = self.path / "evaluation.json"
        self.reports = self.path / "evaluation"
        self.predictions = self.path / "predictions.csv"
        self.preview = self.path / "preview.png"
        # exports
        self.model = self.path / MODEL
        self.saved_model = self.path / "saved_model"
        self.tflite = self.path / "model.tflite"

    def __fspath__(self) -> str:
        """Returns the path, so that a run folder can be given where a path is expected."""
        return str(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainings out of the folder. Creates it, and removes it at the end if it is empty.

        Raises:
            RuntimeError: another process trains in the folder.
            OSError: the folder cannot be written.
        """
        existed = self.path.exists()
        self.create()
        try:
            with locking(self.path / ".lock"):
                yield
        except LockedError as error:
            raise RuntimeError(
                f"{self.path} is in use: {error} trains in it. Wait for its end, or choose another `model_dir`."
            ) from None
        finally:
            if not existed:
                with contextlib.suppress(OSError):  # it is not empty
                    self.path.rmdir()

    def create(self) -> None:
        """Creates the folder if it does not exist. Raises OSError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{self.path} cannot be created: {error.strerror}. Choose another `model_dir`.") from error
        self.check_writable()

    def check_writable(self) -> None:
        """Raises OSError if the folder or one of its folders exists and cannot be written."""
        for path in (self.path, self.checkpoints, self.archive, self.tensorboard, self.reports, self.saved_model):
            try:
                if path.exists():
                    tempfile.TemporaryFile(dir=path).close()
            except OSError as error:
                raise OSError(
                    f"{path} must be a folder that can be written: {error.strerror}. Allow it, or choose another "
                    "`model_dir`."
                ) from error

    def is_run(self) -> bool:
        """Returns whether the folder holds the options of a run."""
        return self.config.is_file()

    def read_options(self, timeout: float = 0.0) -> dict[str, Any] | None:
        """Returns the options of the run, or None if there are none.

        Args:
            timeout: seconds to wait for a training process to write them.

        Raises:
            ValueError: the file is incomplete.
        """
        end = time.monotonic() + timeout
        while not self.is_run() and time.monotonic() < end:
            time.sleep(0.2)
        return _read_object(self.config, self.how_to_get_options()) if self.is_run() else None

    def how_to_get_options(self) -> str:
        """Returns what to do if the options of the run are lost, in words."""
        return (
            f"Copy {self.config.name} again. If it is lost, train one step with the same options in another "
            "`model_dir`, and copy the file from there."
        )

    def write_options(self, options: Mapping[str, Any]) -> None:
        """Writes the options of the run."""
        write_json(self.config, options)

    def read_labels(self) -> list[str] | None:
        """Returns the class names, or None if the run has none. Raises ValueError if the file has other content."""
        try:
            return read_labels(self.labels) if self.labels.is_file() else None
        except ValueError as error:
            raise ValueError(f"{error} If the file is damaged, copy it again.") from error

    def write_labels(self, class_names: Sequence[str]) -> None:
        """Writes the class names, one per line."""
        write_text(self.labels, "".join(f"{name}\n" for name in class_names))

    def contents(self) -> list[tuple[str, str]]:
        """Returns the name and the meaning of each file and folder that the run has, the products first."""
        meanings = {
            self.model: "the network, for keras.saving.load_model",
            self.saved_model: "the network, for TensorFlow Serving and TensorFlow Hub",
            self.tflite: "the network, for phones and browsers",
            self.results: "the scores of the network and of its exports",
            self.evaluation: "the scores of the last --mode=eval",
            self.predictions: "the classes of the last --mode=predict",
            self.reports: "accuracy of each class, confusion matrix, calibration",
            self.curve: "loss, accuracy and learning rate by step",
            self.preview: "images as the network sees them",
            self.labels: "the class names",
            self.config: "the options of the run",
            self.checkpoints: "what the run resumes from",
            self.archive: "the best checkpoint",
            self.log: "loss and scores by step",
            self.evaluations: "scores by step, of --mode=eval",
            self.tensorboard: "the same for TensorBoard",
        }
        existing = [path for path in meanings if path.exists()]
        return [(f"{path.name}/" if path.is_dir() else path.name, meanings[path]) for path in existing]

    def class_names(self, classes: int) -> tuple[str, ...]:
        """Returns the class names, or the class numbers if the run has no names.

        Raises:
            ValueError: the number of names is not `classes`.
        """
        names = self.read_labels()
        if names is None:
            return tuple(str(number) for number in range(classes))
        if len(names) != classes:
            raise ValueError(f"{self.labels} names {len(names)} classes, the network has {classes}. They must match.")
        return tuple(names)

    def check_classes(self, class_names: Sequence[str] | None) -> None:
        """Raises ValueError if data have other class names than the run, or the same in another order.

        Passes if one of them has no class names; warns if only the run has them.
        """
        trained = self.read_labels()
        if trained and not class_names:
            logging.warning(
                f"The run in {self.path} has class names ({self.labels.name}), the data have none: whether the classes "
                "are the same, in the same order, cannot be checked."
            )
        if trained and class_names and trained != list(class_names):
            raise ValueError(
                f"The data must have the classes that the run in {self.path} was trained on. "
                f"{describe_difference(trained, class_names)} Give the data of the run, or another `model_dir`; if "
                f"these are the same classes under new names, write the new names into its {self.labels.name}. Copy "
                "that file again if it is damaged."
            )

    def check_data(self, class_names: Sequence[str] | None, data_dir: str | None) -> None:
        """Raises ValueError if the checkpoints of the run are of other classes; warns if the data are elsewhere.

        Moved data are legal.
        """
        if CheckpointFolder(self.checkpoints).is_empty():
            return
        self.check_classes(class_names)
        options = self.read_options()
        trained = options.get("data_dir") if options else data_dir
        if os.path.realpath(trained or "") != os.path.realpath(data_dir or ""):
            logging.warning(
                f"The run in {self.path} was trained with data_dir={trained}. Received: data_dir={data_dir}. If these "
                "are not the same images in another place, use another `model_dir` to train on them."
            )

    def check_untrained(self, logged_step: int) -> None:
        """Raises ValueError if the run, which has no checkpoint, had some: they are lost, and it must not start again.

        A run that was killed before its first checkpoint was complete passes: it has the folder of its checkpoints
        before it has options.

        Args:
            logged_step: the last step in the log of the run, 0 if it has none.
        """
        options = self.read_options() or {} if logged_step else {}
        steps = [options.get(name) for name in ("checkpoint_steps", "train_steps")]
        first = min((step for step in steps if type(step) is int), default=math.inf)
        if not self.find_best() and (logged_step < first or logged_step == first and self.checkpoints.exists()):
            return
        raise ValueError(
            f"{self.checkpoints} must hold the checkpoints of the run in {self.path}, but holds none, although the run "
            f"was trained. Copy {self.checkpoints.name}/ again; or remove {self.log.name} and {self.archive.name}/ too "
            "to start from step 0; or choose another `model_dir`."
        )

    def latest_checkpoint(self) -> str | None:
        """Returns the path of the latest complete checkpoint without `.index`; see `CheckpointFolder.latest`."""
        return CheckpointFolder(self.checkpoints).latest()

    def find_checkpoint(self, *, best: bool) -> str | None:
        """Returns the path of the best or of the latest checkpoint without `.index`; None if there is no latest.

        Raises:
            FileNotFoundError: `best`, but no evaluation was kept.
            ValueError: no checkpoint is complete.
        """
        return self.best_checkpoint() if best else self.latest_checkpoint()

    def find_best(self) -> dict[str, Any] | None:
        """Returns `step` and scores of the best checkpoint, or None if no evaluation was kept.

        Raises:
            ValueError: the file that names it is incomplete.
        """
        if not self._best.exists():
            return None
        best = _read_object(self._best, self._how_to_get_best())
        if type(best.get("step")) is not int or type(best.get("top_1_accuracy")) not in (int, float):
            raise ValueError(
                f"{self._best} is incomplete: it has no step, or no top_1_accuracy. {self._how_to_get_best()}"
            )
        return best

    def _how_to_get_best(self) -> str:
        """Returns what to do if the best checkpoint is lost, in words."""
        name = self._best.name
        return f"Copy {self.archive.name}/ again, or remove {name}: the run then keeps the next best checkpoint."

    def best_checkpoint(self) -> str:
        """Returns the path of the best checkpoint without `.index`.

        Raises:
            FileNotFoundError: no evaluation was kept, or its checkpoint is missing or damaged.
        """
        best = self.find_best()
        if best is None:
            raise FileNotFoundError(
                f"There is no best checkpoint in {self.archive}. Train until an evaluation, or leave out `use_best`."
            )
        path = self._archived(best["step"])
        if not CheckpointFolder(self.archive).is_complete(path):
            raise FileNotFoundError(f"{path} is missing or damaged. {self._how_to_get_best()}")
        return path

    def keep_best(self, step: int, scores: Mapping[str, float], write: Callable[[str], Any]) -> None:
        """Archives a checkpoint if its top-1 is higher than that of every earlier one.

        Safe to kill at any time: `best_eval.json` changes in one step, after the new checkpoint is complete and before
        the old one is removed.

        Args:
            step: of the checkpoint.
            scores: its `top_1_accuracy` and others.
            write: writes the checkpoint to a path.
        """
        best = self.find_best()
        if best and (best["top_1_accuracy"] >= scores["top_1_accuracy"] or best["step"] == step):
            return
        path = self._archived(step)
        write(path)
        write_json(self._best, {"step": step} | dict(scores))
        for other in self.archive.iterdir():
            if other != self._best and not other.name.startswith(f"{Path(path).name}."):
                _remove(other)

    def forget_best_after(self, step: int) -> None:
        """Removes the record of a best checkpoint later than `step`, where the run resumes.

        The later checkpoints of the run are lost or damaged. It evaluates that step again.
        """
        best = self.find_best()
        if best and best["step"] > step:
            self._best.unlink()

    def _archived(self, step: int) -> str:
        return str(self.archive / f"ckpt-{step}")


def find_labels(path: str | os.PathLike[str]) -> list[str] | None:
    """Returns the class names of the run whose folder or `model.keras` is at `path`, or None if it has none."""
    folder = folder_of(path)
    return folder.read_labels() if folder else None


def find_run(path: str | os.PathLike[str] | None) -> RunFolder | None:
    """Returns the run that `path` belongs to: its folder or its `model.keras`. None if there are no options."""
    folder = folder_of(path)
    return folder if folder and folder.is_run() else None


def folder_of(path: str | os.PathLike[str] | None) -> RunFolder | None:
    """Returns the folder at `path`, or the folder of the `model.keras` at `path`; it may lack options."""
    if path is None or Path(path).expanduser().is_dir():
        return RunFolder(path) if path else None
    return RunFolder(Path(path).parent) if Path(path).name == MODEL else None


def run_of_checkpoint(path: str) -> RunFolder:
    """Returns the run that a checkpoint in `checkpoints/` or `archive/` belongs to."""
    return RunFolder(Path(path).parent.parent)


def describe_difference(trained: Sequence[str], received: Sequence[str], owner: str = "the run") -> str:
    """Returns in words how the class names of data differ from those of `owner`: in number, names or order."""
    counts = (
        f"{owner[0].upper()}{owner[1:]} has {len(trained)} classes, the data {len(received)}. "
        if len(trained) != len(received)
        else ""
    )
    missing, added = _list_others(trained, received), _list_others(received, trained)
    if missing or added:
        return f"{counts}Only {owner} has: {missing or '-'}. Only the data have: {added or '-'}."
    if counts:  # one of them has a name twice
        return counts.rstrip()
    number = next(number for number, name in enumerate(received) if name != trained[number])
    return f"The order differs: class {number} is {trained[number]!r} in {owner}, and {received[number]!r} in the data."


def _list_others(names: Sequence[str], others: Sequence[str]) -> str:
    """Returns in words the names that `others` lack, at most five."""
    found = [repr(name) for name in names if name not in set(others)]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _read_object(path: Path, hint: str = "") -> dict[str, Any]:
    """Returns the JSON object in a file. Raises ValueError if there is none."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise ValueError(f"{path} is incomplete: {error}. {hint}".rstrip()) from error
    return content


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
