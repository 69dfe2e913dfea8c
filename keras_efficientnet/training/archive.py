"""The best checkpoint of a run, by validation top-1, in `archive/`; and how long no better one has come."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.history import write_json

BEST = "archive/best_eval.json"  # names the step of the checkpoint that counts; whatever else lies there does not


def find_best(folder: Path) -> dict[str, Any] | None:
    """`step` and scores of the best checkpoint of a run, or None where no evaluation has been kept."""
    path = folder / BEST
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def best_checkpoint(folder: Path) -> str:
    """The path of the best checkpoint, as TensorFlow writes it: without `.index`.

    Raises:
        FileNotFoundError: no evaluation has been kept.
    """
    best = find_best(folder)
    if best is None:
        raise FileNotFoundError(
            f"There is no best checkpoint in {folder}/archive. Train up to an evaluation, or leave out `use_best`."
        )
    return _checkpoint(folder, best["step"])


def keep_best(folder: Path, step: int, scores: Mapping[str, float], write: Callable[[str], Any]) -> None:
    """Keeps a checkpoint if its top-1 is higher than that of every one before.

    A kill at any time leaves the one or the other: `best_eval.json` changes in one step, after the checkpoint is whole
    and before the former one goes.

    Args:
        folder: of the run.
        step: of the checkpoint.
        scores: its `top_1_accuracy` and others.
        write: writes the checkpoint to a path.
    """
    best = find_best(folder)
    if best and (best["top_1_accuracy"] >= scores["top_1_accuracy"] or best["step"] == step):
        return
    path = _checkpoint(folder, step)
    write(path)
    write_json(folder / BEST, {"step": step} | dict(scores))
    for other in (folder / BEST).parent.iterdir():
        if other.name != Path(BEST).name and not other.name.startswith(f"{Path(path).name}."):
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def forget_after(folder: Path, step: int) -> None:
    """Drops a best checkpoint of a later step than the run goes on from: somebody has removed `checkpoints/`."""
    best = find_best(folder)
    if best and best["step"] > step:
        (folder / BEST).unlink()


def evaluations_since_best(rows: Sequence[Mapping[str, float]]) -> int:
    """How many of the evaluations, in order, came after the first with the highest top-1."""
    accuracies = [row["top_1_accuracy"] for row in rows]
    return len(rows) - 1 - accuracies.index(max(accuracies)) if rows else 0


def _checkpoint(folder, step):
    return str(folder / "archive" / f"ckpt-{step}")
