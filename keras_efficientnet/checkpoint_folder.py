"""The checkpoints of a run: written, found and removed by reading the folder, not TensorFlow's list of them."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from keras_efficientnet.files import write_text
from keras_efficientnet.paths import without_wildcards

FILE = re.compile(r"ckpt-(0|[1-9]\d*)\.(index|data-\d+-of-\d+)")  # group 1: the step
POLL_SECONDS = 0.5


class CheckpointFolder:
    """A folder of files ckpt-STEP.index and ckpt-STEP.data-*. It may not exist yet.

    `tf.train.CheckpointManager` loses all checkpoints if its list of them is lost, and takes brackets in a path for
    wildcards.

    Example:
        >>> CheckpointFolder("runs/efficientnet-b0/checkpoints").latest() is None
        True

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def latest(self) -> str | None:
        """Returns the path of the latest complete checkpoint without `.index`, or None if none was ever written.

        Reads the checkpoints themselves: TensorFlow's list of them, the file `checkpoint`, may be lost or damaged.
        Warns about each later checkpoint that is incomplete.

        Raises:
            ValueError: no checkpoint is complete.
        """
        found = self._list()
        for path in found:
            if self.is_complete(path):
                return path
        if self._list() != found:  # a training that runs has removed what it had, and has written a later one
            return self.latest()
        if self._state.exists() or any(map(FILE.fullmatch, _list_names(self.path))):
            raise ValueError(
                f"{self.path} must hold a complete checkpoint, ckpt-STEP.index and its ckpt-STEP.data-* files, "
                "but holds only remains of a run. Copy the folder again, or remove it to start from step 0, with the "
                "log and the archive of the run."
            )
        return None

    def is_empty(self) -> bool:
        """Returns whether no checkpoint, complete or damaged, is there."""
        return not self._list()

    def wait(self, timeout: float) -> Iterable[str]:
        """Yields the path of each new checkpoint until none has appeared for `timeout` seconds."""
        seen: set[str] = set()
        end = time.monotonic() + timeout
        while True:
            new = self._list()
            new = new[: next((number for number, path in enumerate(new) if path in seen), None)]
            complete = next((path for path in new if not find_damage(path)), None)  # others may still be being written
            if complete:
                seen.add(complete)
                yield complete
                end = time.monotonic() + timeout
            elif time.monotonic() >= end:
                for path in new:
                    self.is_complete(path)  # warns
                return
            else:
                time.sleep(min(POLL_SECONDS, timeout))

    def save(self, step: int, write: Callable[[str], Any], keep: int) -> None:
        """Writes a checkpoint, then removes all but the latest `keep`. Safe to kill at any time.

        Args:
            step: of the checkpoint.
            write: writes a complete checkpoint or none to a path.
            keep: number of checkpoints to keep. Checkpoints after `step` are damaged leftovers; they are neither
                counted nor removed.
        """
        write(str(self.path / f"ckpt-{step}"))
        self._write_state(step)
        for path in [path for path in self._list() if _step_of(path) <= step][keep:]:
            self._remove(Path(path).name)

    def recover(self) -> str | None:
        """Returns the latest complete checkpoint, and makes TensorFlow's list name it; warns if it did not.

        Raises:
            ValueError: no checkpoint is complete.
        """
        path = self.latest()
        if path is None:
            return None
        name = Path(path).name
        if f'model_checkpoint_path: "{name}"' not in _read_lines(self._state):
            logging.warning(
                f"{self._state} does not name {name}, the latest complete checkpoint: it was lost, damaged, or not "
                f"updated when the run stopped. The run resumes from {name}."
            )
            self._write_state(_step_of(path))
        return path

    def remove_incomplete(self) -> None:
        """Removes the files of a process that was killed while it wrote a checkpoint."""
        for name in _list_names(self.path):
            if "_temp" in name:  # TensorFlow's folder of a checkpoint's parts, removed after the index is written
                if find_damage(str(self.path / name.split("_temp")[0])):
                    self._remove(name.split("_temp")[0])
                shutil.rmtree(self.path / name, ignore_errors=True)

    def is_complete(self, path: str) -> bool:
        """Returns whether every value of a checkpoint can be read; warns if not, unless training has removed it."""
        damage = find_damage(path)
        if damage and os.path.exists(f"{path}.index"):
            logging.warning(f"{path} is incomplete or damaged, and is not used: {damage}")
        return damage is None

    @property
    def _state(self) -> Path:
        """TensorFlow's list of checkpoints: names the latest one, for TensorFlow's own functions."""
        return self.path / "checkpoint"

    def _list(self) -> list[str]:
        """Returns the paths of the checkpoints that have an index, without `.index`, the latest first."""
        found = [match for name in _list_names(self.path) if (match := FILE.fullmatch(name))]
        steps = {int(match[1]) for match in found if match[2] == "index"}
        return [str(self.path / f"ckpt-{step}") for step in sorted(steps, reverse=True)]

    def _write_state(self, step: int) -> None:
        """Writes TensorFlow's list of checkpoints, from the earliest to the one of `step`."""
        names = [Path(path).name for path in self._list() if _step_of(path) <= step]
        lines = [f'model_checkpoint_path: "{names[0]}"', *(f'all_model_checkpoint_paths: "{n}"' for n in names[::-1])]
        write_text(self._state, "".join(f"{line}\n" for line in lines))

    def _remove(self, name: str) -> None:
        """Removes the files of a checkpoint, its index first: without it, the other files do not count."""
        for file in sorted(_list_names(self.path), reverse=True):
            if FILE.fullmatch(file) and file.split(".")[0] == name:
                (self.path / file).unlink()


def find_damage(path: str) -> str | None:
    """Returns why not every value of a checkpoint can be read, or None if all can."""
    import tensorflow as tf

    try:
        with without_wildcards(path) as plain:
            reader = tf.train.load_checkpoint(plain)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # compares the checksum
    except (tf.errors.OpError, LookupError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())[:150]
    return None


def _step_of(path: str) -> int:
    return int(path.rsplit("-", 1)[1])


def _list_names(folder: Path) -> list[str]:
    """Returns the names in a folder, or none if it does not exist."""
    return os.listdir(folder) if folder.is_dir() else []


def _read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file that may be missing or damaged."""
    return path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
