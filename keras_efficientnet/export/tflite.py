"""Writes a model as a TFLite file, for phones and browsers, in float32 or quantized."""

import os
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_efficientnet.export import flatbuffer
from keras_efficientnet.export.agreement import check_exact, check_roughly, name_outputs
from keras_efficientnet.export.folding import inference_copy
from keras_efficientnet.export.metadata import add_metadata
from keras_efficientnet.export.preparation import (
    check_labels,
    check_model,
    check_precision,
    collect_variables,
    is_exported_file,
    make_serving_function,
    suppress_info_logs,
)
from keras_efficientnet.export.quantization import to_int8
from keras_efficientnet.files import replacing
from keras_efficientnet.runtimes.networks import load_tflite

QUANTIZATIONS = ("none", "float16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")  # quantized activations need ranges, which are found on images
INPUT_DTYPES = ("float32", "uint8")


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: str = "none",
    images: np.ndarray | None = None,
    input_dtype: str = "float32",
    labels: Sequence[str] | None = None,
    dynamic_batch: bool = False,
    overwrite: bool = False,
) -> float:
    """Writes a TFLite file of built-in operations with metadata for MediaPipe; complete or not at all.

    Its signature `serving_default` takes `inputs`, pixels [1, height, width, channels] from 0 to 255, and gives
    `probabilities`, `features` or `outputs` (see `name_outputs`), float32 [1, n]; with `dynamic_batch`, any number.

    Args:
        model: a classifier of images of one size, or another model that gives a row of numbers for each.
        path: file to write.
        quantize: "none" for float32; "float16" for half the size; "dynamic" for a quarter, with 8-bit kernels; "int8"
            for 8-bit activations too, which is fast (see `quantization`); "int16x8" for 16-bit activations.
        images: some hundred training images for the ranges of activations, float32 [n, height, width, channels] from
            0 to 255. "int8" and "int16x8" need them; the others are compared on them.
        input_dtype: "float32", or "uint8" for the bytes of an image.
        labels: class names in order, for the metadata.
        dynamic_batch: whether a call takes any number of images instead of one.
        overwrite: whether to replace an existing file.

    Returns:
        The largest difference between an output of the file and the model's.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or it is no file that an export wrote.
        ValueError: the model does not take images, accepts images of any size or computes in mixed precision; an
            option is unknown; labels or images do not match the model.
        ImportError: "int8" needs ai-edge-quantizer.
        RuntimeError: the file gives other outputs than the model, or some are not finite.
    """
    _check_options(quantize=quantize, input_dtype=input_dtype)
    _check_model(model)
    check_labels(model, labels)
    images = _check_images(model, images, input_dtype)
    with replacing(path, overwrite, is_ours=is_exported_file) as new, suppress_info_logs():
        content = convert(model, quantize, images, batch_size=None if dynamic_batch else 1)
        content = flatbuffer.accept_bytes(content) if input_dtype == "uint8" else content
        new.write_bytes(add_metadata(content, model.name, labels, name_outputs(model)))
        _check_interface(new, input_dtype, name_outputs(model))
        if quantize == "none":
            return check_exact(model, load_tflite(new), "TFLite file")
        return check_roughly(model, load_tflite(new), f"TFLite file in {quantize}", images)


def convert(
    model: keras.Model, quantize: str, images: np.ndarray | None = None, *, batch_size: int | None = 1
) -> bytes:
    """Returns the content of a TFLite file without metadata, not yet compared with the model; see `to_tflite`."""
    if quantize in CALIBRATED and images is None:
        raise ValueError(
            f"`quantize={quantize}` needs `images`, on which it finds the ranges of the activations: some hundred of "
            "those the model was trained on."
        )
    with inference_copy(model, find_form(quantize)) as network:
        converter = _make_converter(network, quantize, images, batch_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow deprecates its interpreter, which its converter uses
            try:
                content = converter.convert()
            except OSError:
                raise
            except Exception as error:  # the converter's own exception is in a private module
                reason = str(error).strip().splitlines()[-1]
                raise ValueError(f"{model.name} cannot be converted to TFLite: {reason}") from error
    content = flatbuffer.widen_constants(content)
    return to_int8(content, images) if quantize == "int8" and images is not None else content


def find_form(quantize: str) -> str:
    """Returns the form of CondConv layers (see `CondConv2D`): quantized kernels must not be computed."""
    return "fold" if quantize in ("none", "float16") else "sum"


def _check_options(**options):
    for name, known in (("quantize", QUANTIZATIONS), ("input_dtype", INPUT_DTYPES)):
        if options[name] not in known:
            raise ValueError(f"Unknown `{name}` {options[name]!r}. Choose one of: {', '.join(known)}")


def _check_model(model):
    check_model(model)
    if None in model.input_shape[1:]:
        raise ValueError(
            f"A TFLite file takes images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with a fixed `input_shape`, (224, 224, 3) for example."
        )
    check_precision(model, "A TFLite file")


def _check_images(model, images, input_dtype) -> np.ndarray | None:
    """Returns the calibration images, rounded if the file takes bytes; raises ValueError if they are invalid."""
    if images is None:
        return None
    images = np.asarray(images, "float32")
    if images.ndim != 4 or images.shape[1:] != model.input_shape[1:] or not len(images):
        expected = ", ".join(map(str, model.input_shape[1:]))
        raise ValueError(f"`images` must be [n, {expected}], at least one. Received: shape={images.shape}")
    if not np.isfinite(images).all() or images.max() <= 1.0:
        raise ValueError(
            f"`images` must be pixels from 0 to 255. Received: values from {images.min():g} to {images.max():g}"
        )
    return np.rint(images).clip(0, 255) if input_dtype == "uint8" else images


def _check_interface(path, input_dtype, outputs):
    interpreter = Interpreter(os.fspath(path))
    names = {"serving_default": {"inputs": ["inputs"], "outputs": [outputs]}}
    types = [tensor["dtype"] for tensor in (*interpreter.get_input_details(), *interpreter.get_output_details())]
    if interpreter.get_signature_list() != names or types != [np.dtype(input_dtype), np.dtype("float32")]:
        raise RuntimeError(
            f"The converter wrote a file with types {types} and signatures {interpreter.get_signature_list()}. "
            f"Expected {input_dtype} and float32, and {names}. Nothing was written."
        )


def _make_converter(model, quantize, images, batch_size) -> tf.lite.TFLiteConverter:
    holder = collect_variables(model)
    holder.serve = serve = make_serving_function(model, batch_size, name_outputs(model))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder)
    if quantize not in ("none", "int8"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int16x8":
        converter.representative_dataset = lambda: _one_by_one(images)
        activations = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [activations]
    return converter


def _one_by_one(images) -> Iterator[dict[str, np.ndarray]]:
    for image in images:
        yield {"inputs": image[np.newaxis]}
