"""What the folder of a run says of its best checkpoint."""

import json
from pathlib import Path
from typing import Any

BEST = "archive/best_eval.json"  # names the step of the checkpoint that counts; whatever else lies there does not


def find_best(folder: Path) -> dict[str, Any] | None:
    """`step` and scores of the best checkpoint of a run, or None where no evaluation has been kept.

    Raises:
        ValueError: the file that says so is not whole.
    """
    path = folder / BEST
    if not path.exists():
        return None
    try:
        best = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not whole: {error}") from error
    if not isinstance(best, dict) or not isinstance(best.get("step"), int):
        raise ValueError(f"{path} is not whole: it names no step")
    return best


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
    return archived(folder, best["step"])


def archived(folder: Path, step: int) -> str:
    """Where the best checkpoint lies, if it is of `step`."""
    return str(folder / "archive" / f"ckpt-{step}")
