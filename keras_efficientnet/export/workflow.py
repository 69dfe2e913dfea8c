"""Exports a `.keras` file or a run, and measures the result: what the scripts in export/ do."""

import dataclasses
import functools
import os
from typing import NamedTuple

import keras

from keras_efficientnet.export.formats import FORMATS, Options, check_options
from keras_efficientnet.export.images import load_images, make_random_images
from keras_efficientnet.export.measurement import LEAST_AGREEMENT, Report, write_measured
from keras_efficientnet.export.pixels import find_reader, find_resampling
from keras_efficientnet.export.preparation import check_built, check_model, load_model
from keras_efficientnet.export.saved_model import make_features
from keras_efficientnet.export.tflite import CALIBRATED
from keras_efficientnet.export.web import to_web
from keras_efficientnet.files import check_target, count_bytes
from keras_efficientnet.runs import RunFolder, find_labels, find_run, read_labels

CALIBRATION_IMAGES = 200
LEAST_AGREEMENT_INTEGER = 0.97  # for files that compute in whole numbers


class PageSummary(NamedTuple):
    """What `export_page` wrote."""

    bytes: int
    max_difference: float  # of a probability, from the model


class _Trained(NamedTuple):
    """A model and the run it comes from."""

    model: keras.Model
    run: RunFolder | None
    labels: list[str] | None


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
    dynamic_batch: bool | None = None,
    quantize: str = "none",
    input_dtype: str = "float32",
    feature_vector: bool = False,
    weight_decay: float = 1e-5,
) -> Report:
    """Exports a trained network, and measures the file; see `write_measured`.

    Args:
        source: the `.keras` file, or a run folder that has a `model.keras`.
        output: file or folder to write.
        kind: a key of `FORMATS`: saved_model, tflite, onnx or openvino.
        labels: text file with one class name per line; by default that of the run.
        images: images to measure on (see `load_images`); by default the validation images of the run, or a few random
            images without a run. If activations are quantized, their ranges are found on 200 of the training images, or
            on these images if they are plain files.
        image_count: number of images to measure on, at most.
        least_agreement: required share of the images for which file and model predict the same class; by default 0.97
            if activations are quantized, else 0.99.
        overwrite: whether to replace an existing file of the same kind.
        dynamic_batch: whether a call takes any number of images; by default so in ONNX and OpenVINO, not in TFLite.
        quantize: for TFLite; see `to_tflite`.
        input_dtype: for TFLite; see `to_tflite`.
        feature_vector: for SavedModel; see `to_saved_model`.
        weight_decay: for SavedModel; see `to_saved_model`.

    Raises:
        ValueError, OSError, RuntimeError, ImportError: see `load_model`, `load_images`, `write_measured` and the
            exporter of the format.

    Example:
        >>> import os, tempfile, keras
        >>> folder = tempfile.mkdtemp()
        >>> layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, "softmax")]
        >>> keras.Sequential([keras.Input((32, 32, 3)), *layers]).save(os.path.join(folder, "small.keras"))
        >>> report = export_file(os.path.join(folder, "small.keras"), os.path.join(folder, "small.tflite"), "tflite")
        >>> report.agreement
        1.0
    """
    options = Options(
        dynamic_batch=dynamic_batch,
        quantize=quantize,
        input_dtype=input_dtype,
        feature_vector=feature_vector,
        weight_decay=weight_decay,
    )
    check_options(kind, options)
    check_target(output, overwrite, FORMATS[kind].is_ours)
    model, run, names = _load(source, labels)
    check_built(model)
    measured_model = make_features(model) if feature_vector else model
    check_model(measured_model)
    is_calibrated = quantize in CALIBRATED
    calibration = load_images(model, run, images, count=CALIBRATION_IMAGES, train=True) if is_calibrated else None
    measured_on = load_images(model, run, images, count=image_count) if images or run else make_random_images(model)
    if input_dtype == "uint8":
        measured_on = measured_on.rounded()
    if feature_vector:  # has no classes; agreement compares the largest feature
        names, measured_on = None, measured_on._replace(labels=None)
    if least_agreement is None:
        least_agreement = LEAST_AGREEMENT_INTEGER if is_calibrated else LEAST_AGREEMENT
    options = dataclasses.replace(
        options,
        labels=names,
        calibration_images=calibration.pixels if calibration else None,
        read=find_reader(model, run),
    )
    write = functools.partial(_write, FORMATS[kind], model, options)
    return write_measured(
        write, measured_model, output, kind, measured_on, least_agreement=least_agreement, overwrite=overwrite
    )


def export_page(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    labels: str | None = None,
    runtime: str | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> PageSummary:
    """Exports a trained network as a web page that classifies images.

    Args:
        source: the `.keras` file, or a run folder that has a `model.keras`.
        output: folder to write.
        labels: text file with one class name per line; by default that of the run.
        runtime: folder with npm packages; see `to_web`.
        title: title of the page.
        overwrite: whether to replace an existing page.

    Raises:
        ValueError, OSError, RuntimeError: see `load_model` and `to_web`.
    """
    model, run, names = _load(source, labels)
    resampling = find_resampling(model, run)
    difference = to_web(model, output, labels=names, runtime=runtime, title=title, overwrite=overwrite, **resampling)
    return PageSummary(bytes=count_bytes(output), max_difference=difference)


def _write(row, model, options, path) -> float:
    return row.write(model, path, options)


def _load(source, labels) -> _Trained:
    names = read_labels(labels) if labels else find_labels(source)
    return _Trained(model=load_model(source), run=find_run(source), labels=names)
