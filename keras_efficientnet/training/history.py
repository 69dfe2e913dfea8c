"""The history of a run: a log in lines of JSON, scalars for TensorBoard, and a plot of the training curve."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_efficientnet.files import naming_file, save_figure, write_text
from keras_efficientnet.runs import RunFolder

REQUIRED = {"train": {"loss"}, "validation": {"loss", "top_1_accuracy"}}  # values of a row, by part


class History:
    """The log of a run. Removes rows after `step`: they are of work that a crash undid.

    Args:
        folder: the run folder.
        step: the step at which the run resumes; None keeps every row.
        log: the file to log to, by default `folder.log`. One process may write it.
        writes: whether this process writes; otherwise it only remembers its rows.
    """

    def __init__(self, folder: RunFolder, step: int | None, *, log: Path | None = None, writes: bool = True):
        self._folder, self._log, self._writes = folder, log or folder.log, writes
        self._rows = [row for row in read_rows(self._log) if step is None or row["step"] <= step]
        if writes and self._log.exists():
            write_text(self._log, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._written = {(row["part"], row["step"]) for row in self._rows}
        self._writers: dict[str, Any] = {}  # opened at the first row: a run that fails before then leaves no files

    def write(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a row of `values` for a part, "train" or "validation", and a step, unless the log has one already."""
        if (part, step) in self._written:
            return
        self._written.add((part, step))
        row = {"part": part, "step": step} | dict(values)
        self._rows.append(row)
        if not self._writes:
            return
        writer = self._open_writer(part)
        with naming_file(self._log), self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        writer.flush()

    def _open_writer(self, part):
        if part not in self._writers:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._writers[part] = tf.summary.create_file_writer(str(self._folder.tensorboard / part))
        return self._writers[part]

    def rows(self, part: str) -> list[dict[str, Any]]:
        """Returns the rows of a part, oldest first."""
        return [row for row in self._rows if row["part"] == part]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a log. Warns about lines that are not rows, except a last line that a crash cut off."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = [_parse_row(line) for line in lines]
    broken = [number for number, row in enumerate(rows[:-1], start=1) if row is None]
    if broken:
        numbers = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        logging.warning(f"{path}, line {numbers}: not a row of the log. It is left out.")
    return [row for row in rows if row is not None]


def _parse_row(line):
    """Returns the row in a line, or None if there is none."""
    try:
        row = json.loads(line.decode("utf-8").strip("\0"))  # a crash of the system may leave zeros
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not isinstance(row.get("part"), str):
        return None
    values = {name: value for name, value in row.items() if name not in ("part", "step")}
    are_numbers = all(type(value) in (int, float) for value in values.values())
    return row if are_numbers and REQUIRED.get(row["part"], set()) <= set(values) else None


def evaluations_since_best(rows: Sequence[Mapping[str, float]]) -> int:
    """Returns how many evaluations followed the first one with the highest top-1 accuracy."""
    accuracies = [row["top_1_accuracy"] for row in rows]
    return len(rows) - 1 - accuracies.index(max(accuracies)) if rows else 0


def plot(folder: RunFolder) -> None:
    """Draws `curve.png`: loss and accuracy by step, from `log.jsonl` and `evaluations.jsonl`."""
    from matplotlib.figure import Figure

    rows = [*read_rows(folder.log), *read_rows(folder.evaluations)]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for part in ("train", "validation"):
        _plot_part([row for row in rows if row["part"] == part], part, loss_axes, accuracy_axes)
    loss_axes.set(xlabel="step", ylabel="loss", title="Loss")
    accuracy_axes.set(xlabel="step", ylabel="%", title="Validation accuracy, averaged weights", ylim=(0, 101))
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save_figure(figure, folder.curve)


def _plot_part(rows: Sequence[Mapping[str, float]], part: str, loss_axes: Any, accuracy_axes: Any) -> None:
    steps = [row["step"] for row in rows]
    loss_axes.plot(steps, [row["loss"] for row in rows], label=part, marker="o" if part == "validation" else "")
    for name in ("top_1_accuracy", "top_5_accuracy"):
        if rows and name in rows[0]:
            accuracy_axes.plot(steps, [100 * row[name] for row in rows], label=name, marker="o")
