"""Writes networks in every format, to be timed: ours by our exporters, others by the plain conversion."""

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
from keras_efficientnet.export.onnx import to_onnx
from keras_efficientnet.export.openvino import XML, is_openvino, to_openvino
from keras_efficientnet.export.preparation import make_normalization_constant, suppress_info_logs
from keras_efficientnet.export.saved_model import is_saved_model, to_saved_model
from keras_efficientnet.export.tflite import convert, to_tflite
from keras_efficientnet.runtimes.timing import Candidate


class TimedFormat(NamedTuple):
    """A format in the table of latencies."""

    file: str  # name of the file or folder
    runtime: str  # a key of `networks.LOADERS`
    export: Callable[[keras.Model, Path], Any]  # writes it by this package
    convert: Callable[[keras.Model, Path], Any]  # writes it by the plain conversion, for networks of keras.applications


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
        warnings.simplefilter("ignore")  # TensorFlow deprecates its interpreter, which its converter uses
        path.write_bytes(converter.convert())


def _quantized(quantize) -> TimedFormat:
    def export(model, path):  # without comparing: networks with random weights magnify every rounding
        path.write_bytes(convert(model, quantize, images_for(model)))

    convert_plainly = functools.partial(_to_plain_tflite, quantize=quantize)
    return TimedFormat(file=f"{quantize}.tflite", runtime="tflite", export=export, convert=convert_plainly)


def _to_plain_onnx(model, path):
    """Exports by Keras. Its file does not run if a Normalization layer holds tensors, so they become constants."""
    make_normalization_constant(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras 3.15 asks NumPy for np.object
        model.export(path, format="onnx", verbose=False)


def _to_plain_openvino(model, path):
    """Converts a SavedModel by OpenVINO. The network that Keras writes takes three times as long."""
    import openvino

    graph = path.with_name("for_openvino")
    model.export(graph, verbose=False)
    path.mkdir()
    openvino.save_model(openvino.Core().read_model(graph), path / XML, compress_to_fp16=False)


_to_onnx = functools.partial(to_onnx, dynamic_batch=False)  # calls have one image
_to_openvino = functools.partial(to_openvino, dynamic_batch=False)

# fmt: off
TIMED_FORMATS = {
    #                            file              runtime         export           convert
    "keras":        TimedFormat("plain.keras",    "keras",        _save,           _save),
    "keras-folded": TimedFormat("folded.keras",   "keras",        _save_folded,    _save_folded),
    "saved_model":  TimedFormat("saved_model",    "saved_model",  to_saved_model,  _to_plain_saved_model),
    "tflite":       TimedFormat("float32.tflite", "tflite",       to_tflite,       _to_plain_tflite),
    **{f"tflite-{quantize}": _quantized(quantize) for quantize in ("float16", "dynamic", "int8")},
    "onnx":         TimedFormat("model.onnx",     "onnx",         _to_onnx,        _to_plain_onnx),
    "openvino":     TimedFormat("openvino",       "openvino",     _to_openvino,    _to_plain_openvino),
    "openvino-f32": TimedFormat("openvino",       "openvino-f32", _to_openvino,    _to_plain_openvino),
}
# fmt: on
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
    """Writes each network in each format, with random weights and matching batch statistics.

    Args:
        builders: functions that build the networks, by name: `{"efficientnet-b0": EfficientNetB0}`.
        folder: folder to write to; each network gets a folder in it.
        formats: keys of `TIMED_FORMATS`.
        threads: numbers of threads to time each file with.
        plainly: whether to convert as a user of keras.applications would, instead of by this package's exporters.
        progress: wraps the iterable of networks and formats to show progress, as `tqdm.tqdm`.

    Raises:
        ImportError: a format's package is not installed.
        ValueError: a format is unknown.
    """
    check_formats(formats)
    models: dict[str, keras.Model] = {}
    candidates = []
    for name, key in progress([(name, key) for name in builders for key in formats]):
        if name not in models:
            models = {name: fit_statistics(builders[name]())}  # releases the previous model
        row = TIMED_FORMATS[key]
        path = folder / name / row.file
        write = row.convert if plainly else row.export
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with (
                suppress_info_logs(),
                contextlib.redirect_stdout(io.StringIO()),
            ):  # Keras and converters print variables
                write(models[name], path)
        file = os.fspath(path)
        candidates += [
            Candidate(model=name, format=key, runtime=row.runtime, path=file, threads=count) for count in threads
        ]
    return candidates


def find_candidates(paths: Sequence[str], threads: Sequence[int]) -> list[Candidate]:
    """Returns candidates for existing files: each is timed in the runtimes of its ending, and named by its path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending is unknown, or a folder is neither a SavedModel nor OpenVINO's.
    """
    return [
        Candidate(model=path, format=runtime, runtime=runtime, path=path, threads=count)
        for path in paths
        for runtime in _runtimes(Path(path))
        for count in threads
    ]


def find_peer(name: str) -> Callable[[], keras.Model]:
    """Returns the function that builds a network of keras.applications with random weights.

    Raises:
        ValueError: there is no such network.
    """
    build = getattr(keras.applications, name, None)
    if not callable(build):
        known = [each for each in dir(keras.applications) if callable(getattr(keras.applications, each))]
        raise ValueError(f"keras.applications has no network {name!r}. Choose from: {', '.join(known)}")
    return functools.partial(build, weights=None)


def check_formats(formats: Sequence[str]) -> None:
    """Raises ValueError unless all are keys of `TIMED_FORMATS`."""
    for name in formats:
        if name not in TIMED_FORMATS:
            raise ValueError(f"Unknown format {name!r}. Choose from: {', '.join(TIMED_FORMATS)}")


def fit_statistics(model: keras.Model) -> keras.Model:
    """Sets the moving statistics of the batch norms to those of random images, so that signals do not vanish.

    With random weights and the initial statistics, the activations of a deep network become too small for a processor's
    fast paths, and the probabilities are the same for all images.
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
    is_filled_folder = path.is_dir() and any(path.iterdir())
    if is_filled_folder and is_openvino(path):
        return ENDINGS[".xml"]
    if is_filled_folder and is_saved_model(path):
        return ["saved_model"]
    if path.suffix not in ENDINGS or path.is_dir():
        raise ValueError(
            f"{path} cannot be timed. Give a file that ends in {', '.join(ENDINGS)}, or a folder that is a SavedModel "
            "or OpenVINO's."
        )
    return ENDINGS[path.suffix]
