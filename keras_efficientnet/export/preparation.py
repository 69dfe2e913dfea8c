"""The model that is exported: loaded, checked, and held so that TensorFlow's savers and converters keep its weights."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.runs import RunFolder


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.keras` file for inference and export: without its optimizer and losses.

    Args:
        path: of the file, or of the folder of a run, which has a `model.keras`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole `.keras` file, or has layers that nobody has registered.
    """
    run = RunFolder(path)
    file = run.model if run.path.is_dir() else run.path
    if not file.is_file():
        unfinished = run.checkpoints.is_dir()
        hint = f" The run has not ended; export/convert_weights.py --weights={path} makes one." if unfinished else ""
        raise FileNotFoundError(
            f"There is no file {str(file)!r}. Give a .keras file, or a folder with a model.keras.{hint}"
        )
    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises whatever the content leads it to
        innermost = str(error).rpartition("Exception encountered: ")[2].strip()  # Keras puts all it has read before
        reason = (innermost or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a whole .keras file of a known network: {reason}") from error


def check_model(model: keras.Model) -> None:
    """Raises a ValueError unless it is a classifier of images, and Keras is on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting needs Keras on TensorFlow. Received: backend={keras.backend.backend()!r}. Save the model as "
            ".keras, and load and export that under KERAS_BACKEND=tensorflow."
        )
    check_built(model)
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2]:
        raise ValueError(
            "Only a classifier can be exported: from images [batch, height, width, channels] to probabilities "
            f"[batch, classes]. {model.name} has inputs and outputs {shapes}. Was it built with include_top=True?"
        )


def check_built(model: keras.Model) -> None:
    """Raises a ValueError if nobody knows what images it takes, as of a keras.Sequential without an Input."""
    if not knows_inputs(model):
        raise ValueError(
            f"{model.name} has no inputs yet. Begin it with a keras.Input, as keras.Model(inputs, outputs)."
        )


def knows_inputs(model: keras.Model) -> bool:
    """Whether it is made of layers that go from its inputs to its outputs, and not of code alone."""
    return bool(model.built and getattr(model, "inputs", None))


def check_precision(model: keras.Model, what: str) -> None:
    """Raises a ValueError if the model computes in mixed precision. `what` is to be written, in words."""
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            f"{what} computes in float32, {model.name} in mixed precision: build it under "
            'keras.config.set_dtype_policy("float32") and give it the same weights.'
        )


def check_labels(model: keras.Model, labels: Sequence[str] | None) -> None:
    """Raises a ValueError unless there are no labels, or one line of text for each class."""
    if labels is None:
        return
    classes = model.output_shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must name the {classes} classes of {model.name}. Received: {len(labels)} names.")
    if any(label.splitlines() != [label] for label in labels):
        raise ValueError(f"Each of `labels` must be one line of text. Received: {labels}")


def hold(model: keras.Model) -> tf.train.Checkpoint:
    """What savers and converters are given: the variables of TensorFlow, once each.

    Given the Keras model, `Model.export` and ExportArchive store each twice, and the converter of TFLite loses them:
    it writes, without an error, a file whose outputs are NaN.
    """
    holder = tf.train.Checkpoint()
    holder.variables = [variable.value for variable in model.variables]
    return holder


def hold_constants(model: keras.Model) -> None:
    """Has Keras's Normalization hold its numbers as arrays: the tensors that it has become inputs of an ONNX file."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.mean, layer.variance = np.array(layer.mean), np.array(layer.variance)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps TensorFlow from telling of each file it writes, in programs that log what is informative."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
