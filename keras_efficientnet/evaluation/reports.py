"""Writes an evaluation as tables and figures: accuracy per class, confusions, calibration."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from keras_efficientnet.evaluation.metrics import CALIBRATION_BINS, Outcomes, calibration, confusion_matrix, score
from keras_efficientnet.files import save_figure, write_text

MAX_CONFUSIONS = 100  # pairs of classes in confusions.csv
NAME_LENGTH = 40  # letters of a class name in the confusion matrix: longer ones leave no room for it
MAX_NUMBERED = 40  # classes up to which the confusion matrix is drawn with names and numbers


def write_reports(folder: Path, outcomes: Outcomes, class_names: Sequence[str]) -> None:
    """Writes the tables and figures of an evaluation, each completely or not at all.

    `per_class.csv` starts with the worst class. `confusions.csv` has up to 100 pairs of true and predicted class, the
    most frequent first. `confusion_matrix.csv` and `.png` have a row per true class and a column per predicted class.
    `calibration.png` is the reliability diagram.

    Args:
        folder: created if necessary.
        outcomes: of one or more images.
        class_names: one per class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion_matrix(outcomes, len(class_names))
    write_csv(folder / "per_class.csv", per_class_rows(matrix, class_names))
    write_csv(folder / "confusions.csv", confusion_rows(matrix, class_names))
    header = ["true \\ predicted", *class_names]
    rows = [[name, *row] for name, row in zip(class_names, matrix, strict=True)]
    write_csv(folder / "confusion_matrix.csv", [header, *rows])
    save_figure(draw_confusion_matrix(matrix, class_names), folder / "confusion_matrix.png")
    save_figure(draw_calibration(outcomes), folder / "calibration.png")


def per_class_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[list[Any]]:
    """Returns a header, and (number, name, images, hits, top-1 accuracy) of each class.

    The worst class comes first, classes without images last.

    Args:
        matrix: result of `confusion_matrix`, int64 [classes, classes].
        class_names: one per class.
    """
    images, hits = matrix.sum(axis=1), matrix.diagonal()
    accuracy = hits / np.maximum(images, 1)
    order = np.lexsort((accuracy, images == 0))
    rows = [[i, class_names[i], images[i], hits[i], f"{accuracy[i]:.6f}" if images[i] else ""] for i in order]
    return [["class", "name", "images", "hits", "top_1_accuracy"], *rows]


def confusion_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[list[Any]]:
    """Returns a header, and (true class, predicted class, images, share of the images of the true class) per pair."""
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(index), len(matrix)) for index in order if wrong.flat[index]]
    totals = matrix.sum(axis=1)
    rows = [[class_names[i], class_names[j], wrong[i, j], f"{wrong[i, j] / totals[i]:.6f}"] for i, j in pairs]
    return [["true_class", "predicted_class", "images", "share_of_true_class"], *rows]


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws the matrix as shares of the true class; up to 40 classes get their names, and cells their images."""
    classes = len(matrix)
    numbered = classes <= MAX_NUMBERED
    side = max(4.5, 0.4 * classes) if numbered else 10.0
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    norm = PowerNorm(1.0 if numbered else 0.5, vmin=0, vmax=1)  # makes single images of many classes visible
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest" if numbered else "auto")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="true class", title="Confusion matrix")
    if numbered:
        names = [name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}\u2026" for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
        for i, j in np.argwhere(matrix):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", color=colour, fontsize=7)
    return figure


def draw_calibration(outcomes: Outcomes) -> Figure:
    """Draws accuracy over confidence in bins: on the diagonal, the confidence equals the accuracy."""
    images, confidences, hits = calibration(outcomes).T
    filled = images > 0
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    figure = Figure(figsize=(5, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy = hits[filled] / images[filled]
    axes.bar(centres[filled], accuracy, 1 / CALIBRATION_BINS, edgecolor="white", label="accuracy")
    axes.plot(confidences[filled] / images[filled], accuracy, "o", color="black", markersize=4, label="mean confidence")
    axes.plot((0, 1), (0, 1), "--", color="gray")
    error = 100 * score(outcomes).expected_calibration_error
    axes.set(ylabel="accuracy", title=f"Expected calibration error {error:.2f} %", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    below.bar(centres, images, 1 / CALIBRATION_BINS, edgecolor="white")
    below.set(xlabel="confidence", ylabel="images")
    return figure


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Writes a CSV file, completely or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
