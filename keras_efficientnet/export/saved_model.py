"""A model -> a SavedModel, which serves and goes on training without this package; and back, to call it."""

import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_efficientnet.export.comparing import Classifier, compare
from keras_efficientnet.export.files import is_saved_model, replacing
from keras_efficientnet.export.models import check_labels, check_model, hold, quietly
from keras_efficientnet.layers import summed_experts


def to_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
) -> float:
    """Writes a SavedModel that serves, and trains on, without this package.

    `tf.saved_model.load` gives a function (inputs, training=False), from pixels, float32 [batch, height, width,
    channels], to probabilities [batch, classes], with `variables`, `trainable_variables` and, if given,
    `labels.asset_path`. Its signature `serving_default` takes `inputs` and gives `probabilities` and `classes`, int32
    [batch], the likeliest.
    Either the whole SavedModel comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier; its height and width may be free.
        path: of the folder to write.
        labels: names of the classes, in order, for the file `assets/labels.txt`.
        overwrite: whether to replace a SavedModel that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no SavedModel.
        ValueError: the model gives no probabilities from images, or the labels do not fit it.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
        OSError: it could not be written.
    """
    check_model(model)
    check_labels(model, labels)
    with replacing(path, overwrite, is_ours=is_saved_model) as new, quietly():
        _save(model, new, labels)
        return compare(model, load_saved_model(new), "SavedModel")


def load_saved_model(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `to_saved_model` wrote, as a function from images to probabilities."""
    loaded = tf.saved_model.load(os.fspath(path))

    def classify(images):
        return loaded(tf.convert_to_tensor(images, tf.float32)).numpy()

    return classify


@summed_experts()
def _save(model, path, labels):
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="inputs")

    @tf.function
    def call(inputs, training=False):
        return model(inputs, training=training)

    @tf.function(input_signature=[spec])
    def serve(inputs):
        probabilities = call(inputs)
        return {"probabilities": probabilities, "classes": tf.argmax(probabilities, -1, output_type=tf.int32)}

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    holder = hold(model)
    holder.__call__ = call
    holder.trainable_variables = [variable.value for variable in model.trainable_variables]
    if labels is not None:
        file = path.with_name("labels.txt")
        file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        holder.labels = tf.saved_model.Asset(os.fspath(file))
    try:
        tf.saved_model.save(holder, os.fspath(path), signatures={"serving_default": serve})
    except tf.errors.OpError as error:  # a full disk, for example
        raise OSError(f"TensorFlow could not write the SavedModel: {error.message}") from error
