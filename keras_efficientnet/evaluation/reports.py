"""What an evaluation found, as tables and pictures: the classes, what they are taken for, how sure the network is."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from keras_efficientnet.evaluation.metrics import CALIBRATION_BINS, Outcomes, calibration, confusion_matrix, score
from keras_efficientnet.files import save_figure, write_text

MOST_CONFUSED = 100  # pairs of classes in confusions.csv, at most
MOST_NUMBERED = 40  # classes whose confusion matrix is drawn with names and numbers


def write_reports(folder: Path, outcomes: Outcomes, class_names: Sequence[str]) -> None:
    """Writes an evaluation's tables and pictures, each whole or not at all.

    `per_class.csv` has the worst class first; `confusions.csv` the pairs (right class, chosen class) by images, at most
    100; `confusion_matrix.csv` and `.png` have a row for each right class and a column for each chosen one;
    `calibration.png` is the reliability diagram.

    Args:
        folder: is made where it is not there.
        outcomes: of one image or more.
        class_names: one for each class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion_matrix(outcomes, len(class_names))
    write_csv(folder / "per_class.csv", per_class_rows(matrix, class_names))
    write_csv(folder / "confusions.csv", confusion_rows(matrix, class_names))
    header = ["right \\ chosen", *class_names]
    write_csv(
        folder / "confusion_matrix.csv", [header, *([n, *row] for n, row in zip(class_names, matrix, strict=True))]
    )
    save_figure(draw_confusion_matrix(matrix, class_names), folder / "confusion_matrix.png")
    save_figure(draw_calibration(outcomes), folder / "calibration.png")


def per_class_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[list]:
    """A header, and of each class (number, name, images, hits, top-1 accuracy): worst first, those without images last.

    Args:
        matrix: int64 [classes, classes], of `evaluation.confusion_matrix`.
        class_names: one for each class.
    """
    images, hits = matrix.sum(axis=1), matrix.diagonal()
    accuracy = hits / np.maximum(images, 1)
    order = np.lexsort((accuracy, images == 0))
    rows = [[i, class_names[i], images[i], hits[i], f"{accuracy[i]:.6f}" if images[i] else ""] for i in order]
    return [["class", "name", "images", "hits", "top_1_accuracy"], *rows]


def confusion_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[list]:
    """A header and (right class, chosen class, images, share of the right class's images), the most images first."""
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(place), len(matrix)) for place in order if wrong.flat[place]]
    totals = matrix.sum(axis=1)
    rows = [[class_names[i], class_names[j], wrong[i, j], f"{wrong[i, j] / totals[i]:.6f}"] for i, j in pairs]
    return [["right", "chosen", "images", "share_of_right"], *rows]


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The matrix in shares of the right class; up to 40 classes with their names, and the images in the cells."""
    classes = len(matrix)
    numbered = classes <= MOST_NUMBERED
    side = max(4.5, 0.4 * classes) if numbered else 10.0
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    norm = PowerNorm(1.0 if numbered else 0.5, vmin=0, vmax=1)  # single images of many classes are still seen
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest" if numbered else "auto")
    figure.colorbar(image, ax=axes, label="share of the right class", shrink=0.8)
    axes.set(xlabel="chosen class", ylabel="right class", title="Confusion matrix")
    if numbered:
        axes.set_xticks(range(classes), class_names, rotation=90)
        axes.set_yticks(range(classes), class_names)
        for i, j in np.argwhere(matrix):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", color=colour, fontsize=7)
    return figure


def draw_calibration(outcomes: Outcomes) -> Figure:
    """Accuracy over confidence, in bins: on the diagonal the network is as often right as it is sure."""
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
    """Writes a table, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
