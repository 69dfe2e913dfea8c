"""A model -> a TFLite file, for phones and browsers; and back, to call it."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python.convert import ConverterError

from keras_efficientnet.export import flatbuffer
from keras_efficientnet.export.agreement import Classifier, compare, compare_roughly
from keras_efficientnet.export.folding import folded
from keras_efficientnet.export.metadata import add_metadata
from keras_efficientnet.export.preparation import check_labels, check_model, check_precision, hold, quietly
from keras_efficientnet.export.quantization import to_int8
from keras_efficientnet.files import is_single_model, replacing
from keras_efficientnet.layers import summed_experts

TFLITE_THREADS = 2
QUANTIZATIONS = ("none", "float16", "dynamic", "int8", "int16x8")
CALIBRATED = ("int8", "int16x8")  # their activations have ranges, found on images
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
    """Writes a TFLite file: built-in operations only, with metadata that MediaPipe's ImageClassifier takes.

    Its signature `serving_default` takes `inputs`, pixels [1, height, width, channels] from 0 to 255, and gives
    `probabilities`, float32 [1, classes]; or as many as there are, with a dynamic batch. Either the whole file comes to
    stand at `path`, or what was there stays.

    Args:
        model: a classifier of images of one size.
        path: of the file to write.
        quantize: "none" for float32; "float16" for half the size; "dynamic" for a quarter, kernels of 8 bits; "int8"
            for activations of 8 bits too, which is fast (see `quantizing`); "int16x8" for activations of 16 bits.
        images: what the ranges of activations are found on, float32 [n, height, width, channels] from 0 to 255, some
            hundred of those the model was trained on. "int8" and "int16x8" need them; the others are compared on them.
        input_dtype: "float32", or "uint8" for the bytes of a picture as they are.
        labels: names of the classes, in order, for the metadata.
        dynamic_batch: whether a call takes any number of images in place of one.
        overwrite: whether to replace a file that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no file.
        ValueError: the model gives no probabilities from images, their size is free, or it computes in mixed precision;
            an unknown option; labels or images that do not fit.
        ImportError: "int8" needs ai-edge-quantizer.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    images = _check(model, quantize, images, input_dtype, labels)
    with replacing(path, overwrite, is_ours=is_single_model) as new, quietly():
        content = convert(model, quantize, images, None if dynamic_batch else 1)
        content = flatbuffer.take_bytes(content) if input_dtype == "uint8" else content
        new.write_bytes(add_metadata(content, model.name, labels))
        _check_interface(new, input_dtype)
        if quantize == "none":
            return compare(model, load_tflite(new), "TFLite file")
        return compare_roughly(model, load_tflite(new), f"TFLite file in {quantize}", images)


def load_tflite(path: str | os.PathLike[str], threads: int = TFLITE_THREADS) -> Classifier:
    """Loads a TFLite file, as a function from images to probabilities.

    Pixels go in as float32 from 0 to 255, and probabilities come out as float32, whatever types the file has.

    Args:
        path: of a file by `to_tflite`, or by others if its signature has the same names.
        threads: that compute.
    """
    runner = Interpreter(os.fspath(path), num_threads=threads).get_signature_runner("serving_default")
    image, scores = runner.get_input_details()["inputs"], runner.get_output_details()["probabilities"]
    any_batch = image["shape_signature"][0] == -1

    def run(images):
        return _dequantize(runner(inputs=_quantize(images, image))["probabilities"], scores)

    def classify(images):
        if any_batch:
            return run(images)
        probabilities = np.empty((len(images), scores["shape"][-1]), "float32")
        for row, one in zip(probabilities, images, strict=True):
            row[:] = run(one[np.newaxis])[0]
        return probabilities

    return classify


def _quantize(values, tensor):
    values = np.asarray(values, "float32")
    if np.issubdtype(tensor["dtype"], np.floating):
        return values
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.rint(values / (scale or 1.0)) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantize(values, tensor):
    if np.issubdtype(tensor["dtype"], np.floating):
        return values
    scale, zero_point = tensor["quantization"]
    return (values.astype("float32") - zero_point) * np.float32(scale)


def _check(model, quantize, images, input_dtype, labels) -> np.ndarray | None:
    """The images, as `_check_images` gives them; raises a ValueError for an argument that does not fit."""
    for name, value, known in (("quantize", quantize, QUANTIZATIONS), ("input_dtype", input_dtype, INPUT_DTYPES)):
        if value not in known:
            raise ValueError(f"Unknown `{name}` {value!r}. Choose one of: {', '.join(known)}")
    _check_model(model)
    check_labels(model, labels)
    return _check_images(model, images, quantize, input_dtype)


def _check_model(model):
    check_model(model)
    if None in model.input_shape[1:]:
        raise ValueError(
            f"A TFLite file takes images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with a fixed `input_shape`, (224, 224, 3) for example."
        )
    check_precision(model, "A TFLite file")


def _check_images(model, images, quantize, input_dtype) -> np.ndarray | None:
    """The images as a file of the `input_dtype` takes them; raises a ValueError unless they are there, and fit."""
    if images is None:
        if quantize in CALIBRATED:
            raise ValueError(
                f"`quantize={quantize}` needs `images`, on which it finds the ranges of the activations: some hundred "
                "of those the model was trained on."
            )
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


def _check_interface(path, input_dtype):
    interpreter = Interpreter(os.fspath(path))
    names = {"serving_default": {"inputs": ["inputs"], "outputs": ["probabilities"]}}
    types = [tensor["dtype"] for get in ("input", "output") for tensor in getattr(interpreter, f"get_{get}_details")()]
    if interpreter.get_signature_list() != names or types != [np.dtype(input_dtype), np.dtype("float32")]:
        raise RuntimeError(
            f"The converter wrote a file that takes and gives {types}, by {interpreter.get_signature_list()}, not "
            f"{input_dtype} and float32 by {names}. Nothing was written."
        )


def convert(model: keras.Model, quantize: str, images: Any = None, batch_size: int | None = 1) -> bytes:
    """The file's content, not yet compared with the model, without metadata; arguments as `to_tflite` checks them."""
    computed_kernels = quantize in ("none", "float16")  # may be
    mixing = computed_kernels and batch_size == 1
    form = contextlib.nullcontext() if mixing else summed_experts(pointwise=not computed_kernels)
    with form, folded(model) as network:
        converter = _make_converter(network, batch_size)
        if quantize not in ("none", "int8"):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int16x8":
            converter.representative_dataset = lambda: _one_by_one(images)
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow's, that its own interpreter will go, which finds the ranges
            try:
                content = flatbuffer.widen_constants(converter.convert())
            except ConverterError as error:
                reason = str(error).strip().splitlines()[-1]
                raise ValueError(f"{model.name} cannot be converted to TFLite: {reason}") from error
    return to_int8(content, images) if quantize == "int8" else content


def _make_converter(model, batch_size) -> tf.lite.TFLiteConverter:
    spec = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="inputs")
    serve = tf.function(lambda inputs: {"probabilities": model(inputs, training=False)}, input_signature=[spec])
    holder = hold(model)
    holder.serve = serve
    return tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder)


def _one_by_one(images) -> Iterator[dict[str, np.ndarray]]:
    for image in images:
        yield {"inputs": image[np.newaxis]}
