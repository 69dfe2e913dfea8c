"""Writes a model as an ONNX file."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

import keras

from keras_efficientnet.export.agreement import check_exact, name_outputs
from keras_efficientnet.export.folding import inference_copy
from keras_efficientnet.export.preparation import (
    check_labels,
    check_model,
    check_precision,
    is_exported_file,
    make_normalization_constant,
    make_serving_function,
    suppress_info_logs,
)
from keras_efficientnet.files import replacing
from keras_efficientnet.runtimes.networks import import_package, load_onnx

OPSET = 17  # of ONNX's operations; ONNX Runtime 1.12 of 2022 is the first that supports it


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    overwrite: bool = False,
) -> float:
    """Writes an ONNX file in float32 that uses only ONNX's standard operations; complete or not at all.

    The file takes `inputs`, pixels [batch, height, width, channels] from 0 to 255, and gives `probabilities`,
    `features` or `outputs` [batch, n]: see `name_outputs`.

    Args:
        model: a classifier of images, or another model that gives a row of numbers for each.
        path: file to write.
        labels: class names in order, stored in the file's metadata as "labels", one per line.
        dynamic_batch: whether a call takes any number of images instead of one.
        overwrite: whether to replace an existing file.

    Returns:
        The largest difference between an output of the file, in ONNX Runtime, and the model's, on random images.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or it is no file that an export wrote.
        ImportError: onnx, onnxruntime or tf2onnx is not installed.
        ValueError: the model does not take images or computes in mixed precision, or the labels do not match its
            outputs.
        RuntimeError: the file gives other outputs than the model, or some are not finite.

    Example:
        >>> import os, tempfile, keras
        >>> layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, "softmax")]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> to_onnx(model, os.path.join(tempfile.mkdtemp(), "small.onnx")) < 1e-4
        True
    """
    check_model(model)
    check_labels(model, labels)
    check_precision(model, "An ONNX file")
    onnx, tf2onnx = import_package("onnx"), import_package("tf2onnx")
    import_package("onnxruntime")
    with replacing(path, overwrite, is_ours=is_exported_file) as new, suppress_info_logs():
        outputs = name_outputs(model)
        proto = _convert(tf2onnx, model, dynamic_batch, outputs)
        _describe(onnx, proto, model, outputs, labels)
        _check_operations(onnx, proto, model)
        onnx.save(proto, new)
        return check_exact(model, load_onnx(new), "ONNX file")


def _convert(tf2onnx, model, dynamic_batch, outputs):
    with inference_copy(model, form="mix") as network, _without_warnings("tensorflow", "tf2onnx"):
        make_normalization_constant(network)
        serve = make_serving_function(network, None if dynamic_batch else 1, outputs)
        proto, _ = tf2onnx.convert.from_function(serve, serve.input_signature, opset=OPSET)
    return proto


def _check_operations(onnx, proto, model):
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{model.name} cannot be converted to ONNX: {reason}") from error


def _describe(onnx, proto, model, outputs, labels):
    """Names the first axis `batch` throughout, and stores a description of inputs and outputs, and the labels."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not first.HasField("dim_value"):
            first.dim_param = "batch"
    proto.graph.name = model.name
    size = model.output_shape[-1]
    proto.doc_string = (
        f"`inputs`: pixels from 0 to 255, [batch, height, width, channels]. `{outputs}`: [batch, {size}]."
    )
    if labels is not None:
        onnx.helper.set_model_props(proto, {"labels": "\n".join(labels)})


@contextlib.contextmanager
def _without_warnings(*names: str) -> Iterator[None]:
    """Suppresses the warnings of loggers: tf2onnx calls deprecated functions."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
