"""The table of export formats: how a file of each format is written, opened, recognized and described."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_efficientnet.export import flatbuffer
from keras_efficientnet.export.onnx import to_onnx
from keras_efficientnet.export.openvino import is_openvino, to_openvino
from keras_efficientnet.export.pixels import Reader
from keras_efficientnet.export.preparation import is_exported_file
from keras_efficientnet.export.saved_model import is_saved_model, to_saved_model
from keras_efficientnet.export.tflite import to_tflite
from keras_efficientnet.runtimes.networks import Network, load_onnx, load_openvino, load_saved_model, load_tflite


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all formats. Each format has some of them."""

    labels: Sequence[str] | None = None
    dynamic_batch: bool | None = None  # None for the default of the format
    quantize: str = "none"  # TFLite
    calibration_images: np.ndarray | None = None  # TFLite, quantized activations
    input_dtype: str = "float32"  # TFLite
    read: Reader | None = None  # SavedModel
    feature_vector: bool = False  # SavedModel
    weight_decay: float = 1e-5  # SavedModel


class Format(NamedTuple):
    """How to handle files of one format."""

    title: str
    write: Callable[[keras.Model, Path, Options], float]
    load: Callable[[str | Path], Network]
    is_ours: Callable[[Path], bool]  # whether an existing file or folder may be replaced by one of this format
    describe: Callable[[Path], str]  # number formats of the weights and of the computation
    options: tuple[str, ...]  # fields of `Options` that the format has


def _write_saved_model(model, path, options) -> float:
    return to_saved_model(
        model,
        path,
        labels=options.labels,
        read=options.read,
        feature_vector=options.feature_vector,
        weight_decay=options.weight_decay,
    )


def _write_tflite(model, path, options) -> float:
    return to_tflite(
        model,
        path,
        quantize=options.quantize,
        images=options.calibration_images,
        input_dtype=options.input_dtype,
        labels=options.labels,
        dynamic_batch=bool(options.dynamic_batch),
    )


def _write_onnx(model, path, options) -> float:
    return to_onnx(model, path, labels=options.labels, dynamic_batch=options.dynamic_batch is not False)


def _write_openvino(model, path, options) -> float:
    return to_openvino(model, path, labels=options.labels, dynamic_batch=options.dynamic_batch is not False)


def _describe_tflite(path) -> str:
    return flatbuffer.describe_types(path.read_bytes())


def _describe_float32(path) -> str:
    return "float32"


FORMATS = {
    "saved_model": Format(
        title="SavedModel",
        write=_write_saved_model,
        load=load_saved_model,
        is_ours=is_saved_model,
        describe=_describe_float32,
        options=("labels", "read", "feature_vector", "weight_decay"),
    ),
    "tflite": Format(
        title="TFLite",
        write=_write_tflite,
        load=load_tflite,
        is_ours=is_exported_file,
        describe=_describe_tflite,
        options=("labels", "dynamic_batch", "quantize", "calibration_images", "input_dtype"),
    ),
    "onnx": Format(
        title="ONNX",
        write=_write_onnx,
        load=load_onnx,
        is_ours=is_exported_file,
        describe=_describe_float32,
        options=("labels", "dynamic_batch"),
    ),
    "openvino": Format(
        title="OpenVINO",
        write=_write_openvino,
        load=load_openvino,
        is_ours=is_openvino,
        describe=_describe_float32,
        options=("labels", "dynamic_batch"),
    ),
}


def check_options(kind: str, options: Options) -> None:
    """Raises ValueError if an option is set that a format does not have."""
    known = FORMATS[kind].options
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in known and value != field.default:
            raise ValueError(
                f"{FORMATS[kind].title} files have no option `{field.name}`. Received: {field.name}={value!r}. Choose "
                f"from: {', '.join(known)}"
            )
