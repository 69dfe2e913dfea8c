"""Networks in every format, to be timed: those of this package by its exporters, others converted plainly."""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.export.agreement import images_for
from keras_efficientnet.export.folding import fold_batch_norms
from keras_efficientnet.export.interchange import is_openvino, to_onnx, to_openvino
from keras_efficientnet.export.preparation import hold_constants, quietly
from keras_efficientnet.export.saved_model import to_saved_model
from keras_efficientnet.export.tflite import convert, to_tflite
from keras_efficientnet.runtimes.timing import Candidate


class Format(NamedTuple):
    file: str  # its name
    runtime: str  # a key of `runtimes.OPENERS`
    export: Callable[[keras.Model, Path], Any]  # writes it, of a network of this package
    convert: Callable[[keras.Model, Path], Any]  # and of any other, as its user would


def _save(model, path):
    model.save(path)


def _save_folded(model, path):
    fold_batch_norms(model).save(path)


def _to_plain_saved_model(model, path):
    model.export(path, verbose=False)


def _to_plain_tflite(model, path, quantize="none"):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images_for(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TensorFlow's own interpreter will go, which finds the ranges
        path.write_bytes(converter.convert())


def _quantized(quantize) -> Format:
    def export(model, path):  # and does not compare: a network of random weights magnifies every rounding
        path.write_bytes(convert(model, quantize, images_for(model)))

    return Format(f"{quantize}.tflite", "tflite", export, functools.partial(_to_plain_tflite, quantize=quantize))


def _to_plain_onnx(model, path):
    """As Keras does it, whose file does not run if the model has a Normalization layer that holds tensors."""
    hold_constants(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras 3.15 asks NumPy for np.object
        model.export(path, format="onnx", verbose=False)


def _to_plain_openvino(model, path):
    """As OpenVINO converts a SavedModel; what Keras writes takes three times as long."""
    import openvino

    graph = path.with_name("for_openvino")
    model.export(graph, verbose=False)
    path.mkdir()
    openvino.save_model(openvino.Core().read_model(graph), path / "model.xml", compress_to_fp16=False)


_to_onnx = functools.partial(to_onnx, dynamic_batch=False)  # one image is what is timed
_to_openvino = functools.partial(to_openvino, dynamic_batch=False)

FORMATS = {
    "keras": Format("model.keras", "keras", _save, _save),
    "keras-folded": Format("folded.keras", "keras", _save_folded, _save_folded),
    "saved_model": Format("saved_model", "saved_model", to_saved_model, _to_plain_saved_model),
    "tflite": Format("float32.tflite", "tflite", to_tflite, _to_plain_tflite),
    **{f"tflite-{quantize}": _quantized(quantize) for quantize in ("float16", "dynamic", "int8")},
    "onnx": Format("model.onnx", "onnx", _to_onnx, _to_plain_onnx),
    "openvino": Format("openvino", "openvino", _to_openvino, _to_plain_openvino),
    "openvino-f32": Format("openvino", "openvino-f32", _to_openvino, _to_plain_openvino),
}
ENDINGS = {".keras": ["keras"], ".tflite": ["tflite"], ".onnx": ["onnx"], ".xml": ["openvino", "openvino-f32"]}


def write_candidates(
    builders: Mapping[str, Callable[[], keras.Model]],
    folder: Path,
    *,
    formats: Sequence[str],
    threads: Sequence[int],
    plainly: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Candidate]:
    """Writes each network in each format, with the weights it is built with and batch statistics that fit them.

    Args:
        builders: what to call each, and what makes it: `{"efficientnet-b0": EfficientNetB0}`.
        folder: to write to; each network gets a folder in it.
        formats: keys of `FORMATS`.
        threads: with how many each is to be timed.
        plainly: whether to convert as a user of keras.applications would, in place of this package's exporters.
        progress: wraps the pairs of network and format, to show how far it is: `tqdm.tqdm`.

    Raises:
        ImportError: a format's package is not installed.
        ValueError: unknown format.
    """
    check_formats(formats)
    models: dict[str, keras.Model] = {}
    candidates = []
    for name, key in progress([(name, key) for name in builders for key in formats]):
        if name not in models:
            models = {name: fit_statistics(builders[name]())}  # and lets go of the one before
        file, runtime, export, convert = FORMATS[key]
        path = folder / name / file
        write = convert if plainly else export
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with quietly(), contextlib.redirect_stdout(io.StringIO()):  # Keras and the converters tell of each variable
                write(models[name], path)
        candidates += [Candidate(name, key, runtime, os.fspath(path), count) for count in threads]
    return candidates


def find_candidates(paths: Sequence[str], threads: Sequence[int]) -> list[Candidate]:
    """Files that are there, each to be timed in the runtimes that its ending tells, under its path as a name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending tells nothing, or a folder is neither a SavedModel nor of OpenVINO.
    """
    return [
        Candidate(path, runtime, runtime, path, count)
        for path in paths
        for runtime in _runtimes(Path(path))
        for count in threads
    ]


def find_peer(name: str) -> Callable[[], keras.Model]:
    """What builds a network of keras.applications, with random weights.

    Raises:
        ValueError: it has no such network.
    """
    build = getattr(keras.applications, name, None)
    if not callable(build):
        known = [each for each in dir(keras.applications) if callable(getattr(keras.applications, each))]
        raise ValueError(f"keras.applications has no network {name!r}. Choose from: {', '.join(known)}")
    return functools.partial(build, weights=None)


def check_formats(formats: Sequence[str]) -> None:
    """Raises a ValueError unless all are keys of `FORMATS`."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"Unknown format {name!r}. Choose from: {', '.join(FORMATS)}")


def fit_statistics(model: keras.Model) -> keras.Model:
    """Sets the moving statistics of the batch norms to those of random images, which keeps signals from dying away.

    With random weights and the statistics that they begin with, what a deep network computes comes down to numbers that
    are too small for a processor's fast paths, and to the same probabilities for all images.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(images_for(model), training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model


def _runtimes(path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return ["saved_model"]
    if path.is_dir() and any(path.iterdir()) and is_openvino(path):
        return ENDINGS[".xml"]
    if path.suffix not in ENDINGS or path.is_dir():
        raise ValueError(
            f"{path} cannot be timed. Give a file that ends in {', '.join(ENDINGS)}, or a folder that is a SavedModel "
            "or OpenVINO's."
        )
    return ENDINGS[path.suffix]
