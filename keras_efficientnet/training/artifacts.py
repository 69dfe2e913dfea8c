"""The files that a run leaves behind: the exported models with their scores, evaluation reports, and class names."""

from typing import Any

import keras

from keras_efficientnet import export
from keras_efficientnet.datasets import Data
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.evaluation.reports import write_reports
from keras_efficientnet.files import replacing
from keras_efficientnet.runs import RunFolder

EXPORT_BATCH = 32
EXPORT_IMAGES = 2_000  # maximum number of validation images on which the exported files are measured


def write_labels(folder: RunFolder, data: Data) -> None:
    """Writes `labels.txt`, if the data have class names: mode predict then needs no data."""
    if data.class_names:
        folder.write_labels(data.class_names)


def write_evaluation(folder: RunFolder, outcomes: metrics.Outcomes, data: Data) -> None:
    """Writes the tables and plots of `evaluation/`; classes without names are called by their numbers."""
    write_reports(folder.reports, outcomes, data.display_names)


def export_all(model: keras.Model, data: Data, folder: RunFolder, read: export.Reader) -> dict[str, dict[str, float]]:
    """Writes `model.keras`, `saved_model/` and `model.tflite`, and measures the files on the validation images.

    Args:
        model: the network, with probabilities as output.
        data: the validation images and the class names.
        folder: the run folder.
        read: bytes of an encoded image -> pixels as in evaluation, for the signature of `saved_model/` that takes them.

    Returns:
        For each file its size in bytes; for `saved_model` and `tflite` also their scores, and the fraction of images
        for which they predict the same class as the model.
    """
    with replacing(folder.model) as new:
        model.save(new)
    export.to_saved_model(model, folder.saved_model, labels=data.class_names, read=read, overwrite=True)
    export.to_tflite(model, folder.tflite, labels=data.class_names, overwrite=True)
    valid: Any = data.valid
    examples = valid.take(min(data.valid_images, EXPORT_IMAGES)).batch(EXPORT_BATCH).as_numpy_iterator()
    files = {"saved_model": folder.saved_model, "tflite": folder.tflite}
    rows: dict[str, dict[str, float]] = {"model": {"bytes": export.count_bytes(folder.model)}}
    return rows | export.score_files(model, files, examples)
