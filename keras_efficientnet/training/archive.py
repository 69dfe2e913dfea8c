"""The best checkpoint of a run, by validation top-1, in `archive/`; and how long no better one has come."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.history import write_json
from keras_efficientnet.runs import BEST, archived, find_best


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
    path = archived(folder, step)
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
