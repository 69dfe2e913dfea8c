"""Exports a `.keras` file or a run, and measures the result: what the scripts in export/ do."""

import dataclasses
import functools
import os
from typing import NamedTuple

import keras

from keras_efficientnet.export.agreement import name_outputs
from keras_efficientnet.export.formats import FORMATS, Options, check_options
from keras_efficientnet.export.images import Images, load_images, make_random_images
from keras_efficientnet.export.measurement import LEAST_AGREEMENT, Report, write_measured
from keras_efficientnet.export.pixels import find_reader, find_resampling
from keras_efficientnet.export.preparation import check_built, check_model, load_model
from keras_efficientnet.export.saved_model import make_features
from keras_efficientnet.export.tflite import CALIBRATED
from keras_efficientnet.export.web import to_web
from keras_efficientnet.files import check_target, count_bytes
from keras_efficientnet.labels import read_labels
from keras_efficientnet.runs import RunFolder, describe_difference, find_labels, find_run, folder_of

CALIBRATION_IMAGES = 200
LEAST_AGREEMENT_INTEGER = 0.97  # for files that compute in whole numbers


class PageSummary(NamedTuple):
    """What `export_page` wrote."""

    bytes: int
    max_difference: float  # of a probability, from the model


class _Trained(NamedTuple):
    """A model and the run it comes from."""

    model: keras.Model
    folder: RunFolder | None  # of the run; may hold class names without options
    run: RunFolder | None
    labels: list[str] | None


def export_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kind: str,
    *,
    options: Options | None = None,
    labels: str | None = None,
    images: str | None = None,
    image_count: int = 500,
    least_agreement: float | None = None,
    overwrite: bool = False,
) -> Report:
    """Exports a trained network, and measures the file; see `write_measured`.

    Args:
        source: the `.keras` file, or a run folder that has a `model.keras`.
        output: file or folder to write.
        kind: a key of `FORMATS`: saved_model, tflite, onnx or openvino.
        options: options of the format.
        labels: text file with one class name per line; by default that of the run. If `images` have class names, they
            must be equal.
        images: images to measure on (see `load_images`); by default the validation images of the run, or random images
            if there is no run.
        image_count: number of images to measure on, at most.
        least_agreement: required share of the images for which file and model predict the same class, or mean cosine
            similarity of outputs without classes; by default 0.97 if activations are quantized, else 0.99.
        overwrite: whether to replace an existing file of the same kind.

    Raises:
        ValueError, OSError, RuntimeError, ImportError: see `load_model`, `load_images`, `write_measured` and the
            exporter of the format.
    """
    options = options or Options()
    check_options(kind, options)
    check_target(output, overwrite, FORMATS[kind].is_ours)
    trained = _load(source, labels)
    model = make_features(trained.model) if options.feature_vector else trained.model
    check_model(model)
    options = _complete(options, trained, images, labels)
    measured_on = _find_images(trained, images, image_count, options)
    if labels and images and images != "sample" and not options.feature_vector:
        _check_given(trained.labels, measured_on.class_names, labels, images)
    if least_agreement is None:
        least_agreement = LEAST_AGREEMENT_INTEGER if options.quantize in CALIBRATED else LEAST_AGREEMENT
    write = functools.partial(_write, FORMATS[kind], trained.model, options)
    return write_measured(write, model, output, kind, measured_on, least_agreement=least_agreement, overwrite=overwrite)


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
    trained = _load(source, labels)
    resampling, model = find_resampling(trained.model, trained.run), trained.model
    difference = to_web(
        model, output, labels=trained.labels, runtime=runtime, title=title, overwrite=overwrite, **resampling
    )
    return PageSummary(bytes=count_bytes(output), max_difference=difference)


def _load(source, labels) -> _Trained:
    names = read_labels(labels) if labels else find_labels(source)
    model = load_model(source)
    check_built(model)
    return _Trained(model=model, folder=folder_of(source), run=find_run(source), labels=names)


def _complete(options, trained, images, given) -> Options:
    """Returns the options with labels, reader and calibration images of the run.

    Activations are quantized on 200 of the training images, or on `images` if they are plain files.
    """
    labels = None if options.feature_vector else _find_labels(trained, given)
    options = dataclasses.replace(options, labels=labels, read=find_reader(trained.model, trained.run))
    if options.quantize not in CALIBRATED:
        return options
    calibration = load_images(trained.model, trained.folder, images, count=CALIBRATION_IMAGES, train=True)
    return dataclasses.replace(options, calibration_images=calibration.pixels)


def _find_labels(trained, given):
    """Returns the class names, but not those of a run for a model whose outputs are no classes, as an embedding's."""
    fits = trained.labels is None or len(trained.labels) == trained.model.output_shape[-1]
    return trained.labels if fits or given or name_outputs(trained.model) == "probabilities" else None


def _find_images(trained, images, count, options) -> Images:
    """Returns the images to measure on."""
    if images or trained.run:
        found = load_images(trained.model, trained.folder, images, count=count)
    else:
        found = make_random_images(trained.model)
    if options.feature_vector:  # it has no classes
        found = found._replace(labels=None)
    return found.rounded() if options.input_dtype == "uint8" else found


def _check_given(names, class_names, labels, images):
    """Raises ValueError if the file `labels` has other names than the class folders or records of `images`."""
    if class_names and list(class_names) != names:
        difference = describe_difference(names, class_names, "the file")
        raise ValueError(
            f"{labels} must name the classes of {images}, in their order. {difference} Correct the file; or if these "
            "are the same classes under other names, give `images` as plain files: a pattern such as FOLDER/*/*."
        )


def _write(row, model, options, path) -> float:
    return row.write(model, path, options)
