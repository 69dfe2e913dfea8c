"""What a run leaves for others: model.keras, saved_model/ and model.tflite, measured; reports; the classes' names."""

import os
from pathlib import Path

import keras

from keras_efficientnet import export
from keras_efficientnet.datasets import Data
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.evaluation.reports import write_reports
from keras_efficientnet.runs import RunFolder

EXPORT_IMAGES = 2_000  # validation images, at most, that the exported files are measured on


def write_labels(folder: RunFolder, data: Data) -> None:
    """Writes the names of the classes, where the data have them, to `labels.txt`: mode predict needs no data then."""
    if data.class_names:
        folder.write_labels(data.class_names)


def write_evaluation(folder: Path, outcomes: metrics.Outcomes, data: Data) -> None:
    """Writes the tables and pictures of `evaluation/`; classes without names are called by their numbers."""
    write_reports(folder / "evaluation", outcomes, data.names)


def export_all(model: keras.Model, data: Data, folder: Path, read: export.Reader) -> dict[str, dict[str, float]]:
    """Writes `model.keras`, `saved_model/` and `model.tflite`, and measures the files on the validation images.

    Args:
        model: the network with probabilities.
        data: of the run: validation images, names of the classes.
        folder: of the run.
        read: bytes of a picture -> pixels as in evaluation, for the pictures that `saved_model/` is sent.

    Returns:
        For each its bytes; for the exported files also scores, and the share of images on which they choose as the
        model does.
    """
    keras_file, saved_model, tflite = folder / "model.keras", folder / "saved_model", folder / "model.tflite"
    temporary = folder / ".model.keras"
    model.save(temporary)
    os.replace(temporary, keras_file)
    export.to_saved_model(model, saved_model, labels=data.class_names, read=read, overwrite=True)
    export.to_tflite(model, tflite, labels=data.class_names, overwrite=True)
    images = min(data.valid_images, EXPORT_IMAGES)
    _, expected = metrics.evaluate_function(lambda pixels: model(pixels, training=False), data.valid, images)
    rows: dict[str, dict[str, float]] = {"model": {"bytes": export.count_bytes(keras_file)}}
    for name, path, load in (
        ("saved_model", saved_model, export.load_saved_model),
        ("tflite", tflite, export.load_tflite),
    ):
        scores, choices = metrics.evaluate_function(load(path), data.valid, images)
        rows[name] = scores._asdict() | {
            "agreement": float((choices == expected).mean()),
            "bytes": export.count_bytes(path),
        }
    return rows
