"""What a run reports: lines of JSON, TensorBoard scalars, the curve as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_efficientnet.files import save_figure, write_text


class History:
    """The log of a run. Lines after `step` are dropped: they are of work that a crash undid.

    Args:
        folder: gets the log, and TensorBoard's files in `tensorboard/`.
        step: the step at which the run goes on; None keeps every line.
        name: of the log. One process writes it.
        writes: whether this one does; else it only remembers.
    """

    def __init__(self, folder: Path, step: int | None, name: str = "log.jsonl", *, writes: bool = True):
        self._writes, self._folder, self._path = writes, folder, folder / name
        self._rows = [row for row in read(self._path) if step is None or row["step"] <= step]
        if writes and self._path.exists():
            write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._written = {(row["part"], row["step"]) for row in self._rows}
        self._writers: dict[str, Any] = {}  # made at the first row: a run that fails before leaves nothing

    def write(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Adds `values` of a part, "train" or "validation", at a step, unless they are there already."""
        if (part, step) in self._written:
            return
        self._written.add((part, step))
        row = {"part": part, "step": step} | dict(values)
        self._rows.append(row)
        if not self._writes:
            return
        if part not in self._writers:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writers[part] = tf.summary.create_file_writer(str(self._folder / "tensorboard" / part))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with self._writers[part].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writers[part].flush()

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part, in the order they were written."""
        return [row for row in self._rows if row["part"] == part]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a crash cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]  # what follows the last line break is not whole
    return [json.loads(line) for line in lines]


def evaluations_since_best(rows: Sequence[Mapping[str, float]]) -> int:
    """How many of the evaluations, in order, came after the first with the highest top-1."""
    accuracies = [row["top_1_accuracy"] for row in rows]
    return len(rows) - 1 - accuracies.index(max(accuracies)) if rows else 0


def plot(folder: Path) -> None:
    """Draws loss and accuracy over the steps of `log.jsonl`, and of `evaluations.jsonl`, to `curve.png`."""
    from matplotlib.figure import Figure

    rows = [*read(folder / "log.jsonl"), *read(folder / "evaluations.jsonl")]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for part in ("train", "validation"):
        points = [row for row in rows if row["part"] == part]
        steps = [row["step"] for row in points]
        loss_axes.plot(steps, [row["loss"] for row in points], label=part, marker="o" if part == "validation" else "")
        for name in ("top_1_accuracy", "top_5_accuracy"):
            if points and name in points[0]:
                accuracy_axes.plot(steps, [100 * row[name] for row in points], label=name, marker="o")
    loss_axes.set(xlabel="step", ylabel="loss", title="Loss")
    accuracy_axes.set(xlabel="step", ylabel="%", title="Validation accuracy, averaged weights", ylim=(0, 101))
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, folder / "curve.png")
