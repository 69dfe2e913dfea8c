"""The history of a run: a log in lines of JSON, scalars for TensorBoard, and a plot of the training curve."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_efficientnet.config import TOP
from keras_efficientnet.files import save_figure, write_text
from keras_efficientnet.paths import naming_file
from keras_efficientnet.runs import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


LOGARITHMIC_FROM = 100  # largest loss, as a multiple of the smallest


def plot(folder: RunFolder) -> None:
    """Draws `curve.png`: loss, accuracy and learning rate by step, from `log.jsonl` and `evaluations.jsonl`."""
    rows = [*read_rows(folder.log), *read_rows(folder.evaluations)]
    save_figure(draw_curve(rows, folder.read_options() or {}), folder.curve)


def draw_curve(rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> "Figure":
    """Returns a figure of loss, accuracy and learning rate by step.

    Args:
        rows: rows of a log.
        options: the options of the run, which name the network and the data; may be empty.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    train, validation = ([row for row in rows if row["part"] == part] for part in ("train", "validation"))
    _draw_loss(panels[0], train, validation)
    averaged = ", averaged weights" if options.get("moving_average_decay") else ""
    _draw_accuracy(panels[1], validation, f"Validation accuracy{averaged}", options.get("num_label_classes") or TOP + 1)
    panels[2].plot(*_points(train, "learning_rate"))
    panels[2].set(xlabel="step", title="Learning rate", ylim=(0, None))
    for axes in panels:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    if "model_name" in options:
        data = Path(options.get("data_dir") or "").name or options.get("dataset") or "sample"
        figure.suptitle(f"{options['model_name']} on {data}")
    return figure


def _points(rows: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> tuple[list[int], list[float]]:
    found = [row for row in rows if name in row]
    return [row["step"] for row in found], [scale * row[name] for row in found]


def _draw_loss(axes: Any, train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(*_points(train, "loss"), label="training")
    axes.plot(*_points(validation, "loss"), label="validation", marker="o")
    axes.set(xlabel="step", title="Loss")
    losses = [row["loss"] for row in (*train, *validation) if 0 < row["loss"] < float("inf")]
    if losses and max(losses) > LOGARITHMIC_FROM * min(losses):
        axes.set_yscale("log")


def _draw_accuracy(axes: Any, rows: Sequence[Mapping[str, Any]], title: str, classes: int) -> None:
    axes.plot(*_points(rows, "top_1_accuracy", 100), label="top-1", marker="o")
    if classes > TOP:
        axes.plot(*_points(rows, "top_5_accuracy", 100), label="top-5", marker="o")
    if rows:
        best = max(rows, key=lambda row: row["top_1_accuracy"])  # the first of equal ones
        label = f"best top-1: {100 * best['top_1_accuracy']:.2f} % at step {best['step']}"
        axes.plot(best["step"], 100 * best["top_1_accuracy"], "*", color="black", markersize=13, label=label)
    axes.set(xlabel="step", ylabel="%", title=title, ylim=(0, 101))
