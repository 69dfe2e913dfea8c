"""A model -> a TFLite file, for phones and browsers; and back, to call it."""

import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_efficientnet.export.comparing import Classifier, compare
from keras_efficientnet.export.files import replacing
from keras_efficientnet.export.models import check_model, hold, quietly
from keras_efficientnet.layers import summed_experts

TFLITE_THREADS = 2


def to_tflite(
    model: keras.Model, path: str | os.PathLike[str], *, dynamic_batch: bool = False, overwrite: bool = False
) -> float:
    """Writes a TFLite file: float32, built-in operations only.

    Its signature `serving_default` takes `inputs`, pixels [1, height, width, channels], and gives `probabilities`
    [1, classes]; or as many as there are, with a dynamic batch. Either the whole file comes to stand at `path`, or
    what was there stays.

    Args:
        model: a classifier of images of one size.
        path: of the file to write.
        dynamic_batch: whether a call takes any number of images in place of one.
        overwrite: whether to replace a file that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no file.
        ValueError: the model gives no probabilities from images, their size is free, or it computes in mixed precision.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    check_model(model)
    if None in model.input_shape[1:]:
        raise ValueError(
            f"A TFLite file takes images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with a fixed `input_shape`, (224, 224, 3) for example."
        )
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            f"A TFLite file computes in float32, {model.name} in mixed precision: build it under "
            'keras.config.set_dtype_policy("float32") and give it the same weights.'
        )
    with replacing(path, overwrite, is_ours=Path.is_file) as new, quietly():
        new.write_bytes(_convert(model, None if dynamic_batch else 1))
        return compare(model, load_tflite(new), "TFLite file")


def load_tflite(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `to_tflite` wrote, as a function from images to probabilities."""
    runner = Interpreter(os.fspath(path), num_threads=TFLITE_THREADS).get_signature_runner("serving_default")
    classes = runner.get_output_details()["probabilities"]["shape"][-1]
    any_batch = runner.get_input_details()["inputs"]["shape_signature"][0] == -1

    def classify(images):
        if any_batch:
            return runner(inputs=np.asarray(images, "float32"))["probabilities"]
        probabilities = np.empty((len(images), classes), "float32")
        for row, image in zip(probabilities, np.asarray(images, "float32"), strict=True):
            row[:] = runner(inputs=image[np.newaxis])["probabilities"][0]
        return probabilities

    return classify


@summed_experts()
def _convert(model, batch_size) -> bytes:
    spec = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="inputs")
    serve = tf.function(lambda inputs: {"probabilities": model(inputs, training=False)}, input_signature=[spec])
    holder = hold(model)
    holder.serve = serve
    return tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder).convert()
