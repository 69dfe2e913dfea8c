"""A `.keras` file or a run -> a file for other programs, measured before it counts: what the scripts in export/ do."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_efficientnet.export.agreement import images_for
from keras_efficientnet.export.images import Images, load_images
from keras_efficientnet.export.interchange import to_onnx, to_openvino
from keras_efficientnet.export.measurement import LEAST_AGREEMENT, RUNTIMES, Report, measured
from keras_efficientnet.export.pixels import find_reader
from keras_efficientnet.export.preparation import check_built, check_model, load_model
from keras_efficientnet.export.saved_model import make_features, to_saved_model
from keras_efficientnet.export.tflite import CALIBRATED, to_tflite
from keras_efficientnet.files import check_target
from keras_efficientnet.runs import find_labels, find_run, read_labels

WRITERS: dict[str, Callable[..., Any]] = {
    "saved_model": to_saved_model,
    "tflite": to_tflite,
    "onnx": to_onnx,
    "openvino": to_openvino,
}
CALIBRATION_IMAGES = 200
LEAST_OF_INTEGERS = 0.97  # agreement of a file that computes in whole numbers


def export_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kind: str,
    *,
    labels: str | None = None,
    images: str | None = None,
    image_count: int = 500,
    least_agreement: float | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Report:
    """Exports a network, and reports what the file is worth; see `measured`.

    Args:
        source: the `.keras` file, or the folder of a run, which has a `model.keras`.
        output: the file or folder to write.
        kind: a key of `WRITERS`.
        labels: text file with the names of the classes, one a line; those of the run by default.
        images: what to measure on, as `load_images` takes it. By default the validation images of the run; for a file
            that is of no run, a few random ones. Where activations are quantised, their ranges are found on 200 of the
            training images, or on these images where they are mere files.
        image_count: how many to measure on, at most.
        least_agreement: share of the images for which file and model must choose the same class; by default 0.97 for
            whole numbers throughout, else 0.99.
        overwrite: whether to replace what is there.
        **options: of the exporter.

    Raises:
        ValueError, OSError, RuntimeError, ImportError: as `load_model`, `load_images`, `measured` and the exporter say.
    """
    check_target(output, overwrite, RUNTIMES[kind].is_ours)
    model = load_model(source)
    check_built(model)
    check_model(make_features(model) if options.get("feature_vector") else model)
    quantize = options.get("quantize", "none")
    if quantize in CALIBRATED:
        options["images"] = load_images(model, source, images, count=CALIBRATION_IMAGES, train=True).pixels
    if kind == "saved_model":
        options["read"] = find_reader(model, source)
    pictures = _find_images(model, source, images, image_count)
    if options.get("input_dtype") == "uint8":
        pictures = _round(pictures)
    if least_agreement is None:
        least_agreement = LEAST_OF_INTEGERS if quantize in CALIBRATED else LEAST_AGREEMENT
    outputs, names = model, read_labels(labels) if labels else find_labels(source)
    if options.get("feature_vector"):  # of which the largest stands for a choice
        outputs, names, pictures = make_features(model), None, pictures._replace(labels=None)
    write = functools.partial(WRITERS[kind], model, labels=names, **options)
    return measured(write, outputs, output, kind, pictures, least_agreement=least_agreement, overwrite=overwrite)


def _find_images(model, source, images, count) -> Images:
    if images or find_run(source):
        return load_images(model, source, images, count=count)
    pixels = images_for(model)
    return Images(pixels, None, f"{len(pixels)} random images: give `images` to measure on real ones")


def _round(images: Images) -> Images:
    """As bytes hold them: what evaluation's cubic resizing overshoots is not in there."""
    whole = np.rint(images.pixels).clip(0, 255)
    return images._replace(pixels=whole, origin=f"{images.origin}, rounded to bytes")
