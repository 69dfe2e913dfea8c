"""Loads the model to export, checks it, and prepares it for TensorFlow's savers and converters."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.console import filtering_native_logs
from keras_efficientnet.labels import check_names
from keras_efficientnet.preflight import missing_model
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.weights.engine import check_numbers
from keras_efficientnet.weights.readers.hdf5 import check_model_file
from keras_efficientnet.weights.readers.lazy_array import MAX_REASON

KERAS_ENDINGS = (".keras", ".h5", ".hdf5")
MODEL_FILES = (b"PK\x03\x04", b"\x89HDF")  # how files start that models are exported from: .keras (a zip), HDF5


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.keras` file for inference and export, without its optimizer and losses.

    Args:
        path: the file, or a run folder that has a `model.keras`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a complete `.keras` file, would take far more memory than its size, has values that
            are not finite, or has layers that are not registered with Keras.

    Example:
        >>> import os, tempfile, keras
        >>> path = os.path.join(tempfile.mkdtemp(), "small.keras")
        >>> keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()]).save(path)
        >>> load_model(path).output_shape
        (None, 3072)
    """
    run = RunFolder(path)
    file = run.model if run.path.is_dir() else run.path
    if not file.is_file():
        raise missing_model(path)
    if file.suffix not in KERAS_ENDINGS:
        raise ValueError(f"The name of a model must end in .keras. Received: {file}. Rename it, if it is such a file.")
    try:
        check_model_file(file)
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises errors of many types, depending on the content
        raise ValueError(f"{file} is not a complete .keras file of a known network: {_reason(error)}") from error
    rows = ((variable.path, variable, keras.ops.convert_to_numpy(variable)) for variable in model.variables)
    check_numbers([row for row in rows if np.issubdtype(row[2].dtype, np.floating)], str(file))
    return model


def _reason(error):
    """Returns the cause in an error of Keras, which comes after a configuration or the name of an object."""
    innermost = str(error).rpartition("Exception encountered: ")[2].rpartition("Example error message for object ")[2]
    lines = [" ".join(line.split()) for line in innermost.splitlines() if line.strip()] or [type(error).__name__]
    end = next((index for index, line in enumerate(lines) if not line.endswith(":")), 0)
    reason = " ".join(lines[: end + 1]).partition(" Target variable: ")[0]
    return f"it lacks {reason}" if isinstance(error, KeyError) else reason[:MAX_REASON]


def check_model(model: keras.Model) -> None:
    """Raises ValueError unless a model gives a row of numbers for each image and Keras uses TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting needs Keras on TensorFlow. Received: backend={keras.backend.backend()!r}. Save the model as "
            ".keras, and load and export that under KERAS_BACKEND=tensorflow."
        )
    check_built(model)
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2]:
        raise ValueError(
            "A model can be exported that takes images [batch, height, width, channels] and gives a row of numbers for "
            f"each, [batch, n]. {model.name} has inputs and outputs {shapes}. Build it with include_top=True, or with "
            "pooling='avg'."
        )


def check_built(model: keras.Model) -> None:
    """Raises ValueError if the input shape of a model is unknown, as that of a keras.Sequential without an Input."""
    if not has_inputs(model):
        raise ValueError(
            f"{model.name} has no inputs yet. Begin it with a keras.Input, as keras.Model(inputs, outputs)."
        )


def has_inputs(model: keras.Model) -> bool:
    """Returns whether a model is a graph of layers from known inputs to outputs."""
    return bool(model.built and getattr(model, "inputs", None))


def check_precision(model: keras.Model, what: str) -> None:
    """Raises ValueError if the model computes in mixed precision. `what` names the file to write."""
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            f"{what} computes in float32, {model.name} in mixed precision: build it under "
            'keras.config.set_dtype_policy("float32") and give it the same weights.'
        )


def check_labels(model: keras.Model, labels: Sequence[str] | None) -> None:
    """Raises ValueError unless `labels` is None or has one line of text per class."""
    if labels is None:
        return
    classes = model.output_shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must name the {classes} classes of {model.name}. Received: {len(labels)} names.")
    check_names(labels, "`labels`, name")


def is_exported_file(path: Path) -> bool:
    """Returns whether there is a file that may be overwritten by an export: not a .keras or HDF5 file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not file.read(8).startswith(MODEL_FILES)


def make_serving_function(model: keras.Model, batch_size: int | None, outputs: str) -> Any:
    """Returns a tf.function from `inputs`, float32 [batch_size, height, width, channels], to outputs of that name."""
    spec = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="inputs")
    return tf.function(lambda inputs: {outputs: model(inputs, training=False)}, input_signature=[spec])


def collect_variables(model: keras.Model) -> tf.train.Checkpoint:
    """Returns an object that holds each of a model's TensorFlow variables once, for savers and converters.

    Given the Keras model, `Model.export` and ExportArchive store each variable twice, and the TFLite converter loses
    them: without an error, it writes a file whose outputs are NaN.
    """
    holder = tf.train.Checkpoint()
    holder.variables = [variable.value for variable in model.variables]
    return holder


def make_normalization_constant(model: keras.Model) -> None:
    """Replaces the tensors of Keras's Normalization layers by arrays: tensors become inputs of an ONNX file."""
    for layer in _all_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)


def _all_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yields a layer and the layers inside it."""
    yield layer
    is_model = isinstance(layer, keras.Model)
    inside = layer.layers if is_model else [value for value in vars(layer).values() if isinstance(value, keras.Layer)]
    for each in inside:
        yield from _all_layers(each)


@contextlib.contextmanager
def suppress_info_logs() -> Iterator[None]:
    """Suppresses what TensorFlow, its converter and LiteRT report on each file: by Python's logging, and on stderr."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with filtering_native_logs():
            yield
    finally:
        logging.disable(before)
