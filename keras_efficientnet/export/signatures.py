"""Functions stored in a SavedModel: one to call and train, and signatures for pixels and for encoded images."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_efficientnet.export.pixels import Reader

TOP = 5  # most probable classes in the outputs


def make_call(model: keras.Model, spec: tf.TensorSpec) -> Callable:
    """Returns the function (inputs, training=False) -> float32 [batch, n], traced for both values of `training`."""

    @tf.function
    def call(inputs, training=False):
        return tf.cast(model(inputs, training=training), tf.float32)

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    return call


def make_signatures(
    call: Callable,
    spec: tf.TensorSpec,
    to_outputs: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    read: Reader | None,
) -> dict[str, Callable]:
    """Returns the signatures `serving_default`, for pixels, and with a `read` also `image_bytes`, for encoded images.

    Args:
        call: the result of `make_call`.
        spec: shape and type of the pixels, float32 [None, height, width, channels], named "inputs".
        to_outputs: turns the outputs of `call` into the named outputs of a signature.
        read: decodes the bytes of an image to pixels.

    Raises:
        ValueError: `read` gives pixels of another shape or type than `spec`.
    """

    @tf.function(input_signature=[spec])
    def serve(inputs):
        return to_outputs(call(inputs))

    if read is None:
        return {"serving_default": serve}
    pixels = _pixel_spec(read, spec)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve_bytes(image_bytes):
        return serve(tf.map_fn(read, image_bytes, fn_output_signature=pixels))

    return {"serving_default": serve, "image_bytes": serve_bytes}


def name_classes(probabilities: tf.Tensor, labels: Sequence[str] | None) -> dict[str, tf.Tensor]:
    """Returns the named outputs of a classifier: probabilities [batch, classes] and the most probable classes."""
    best, classes = tf.math.top_k(probabilities, min(TOP, probabilities.shape[-1]))
    outputs = {
        "probabilities": probabilities,
        "classes": classes[:, 0],
        f"top_{TOP}_classes": classes,
        f"top_{TOP}_probabilities": best,
    }
    return outputs if labels is None else outputs | {f"top_{TOP}_labels": tf.gather(tf.constant(labels), classes)}


def make_regularization_losses(model: keras.Model, weight_decay: float) -> list[Callable]:
    """Returns a function () -> weight_decay * sum of squares / 2 per kernel; none if `weight_decay` is 0."""

    def make(kernel):
        return tf.function(lambda: weight_decay * tf.nn.l2_loss(kernel), input_signature=[])

    kernels = [variable.value for variable in model.trainable_variables if variable.path.endswith("kernel")]
    return [make(kernel) for kernel in kernels] if weight_decay else []


def _pixel_spec(read, spec):
    """Returns the TensorSpec of the pixels that `read` gives."""
    pixels = tf.function(read).get_concrete_function(tf.TensorSpec([], tf.string)).structured_outputs
    if (
        pixels.dtype != tf.float32
        or not pixels.shape.is_fully_defined()
        or not spec.shape[1:].is_compatible_with(pixels.shape)
    ):
        raise ValueError(
            f"`read` must give pixels, float32 {spec.shape[1:]}. It gives {pixels.dtype.name} {pixels.shape}."
        )
    return tf.TensorSpec(pixels.shape, tf.float32)
