"""The functions in a SavedModel: one that is called and trained, and signatures for pixels and for pictures."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_efficientnet.export.pixels import Reader

TOP = 5  # classes that are named


def make_call(model: keras.Model, spec: tf.TensorSpec) -> Callable:
    """The function (inputs, training=False) -> float32 [batch, n], traced both ways for `inputs` as in `spec`."""

    @tf.function
    def call(inputs, training=False):
        return tf.cast(model(inputs, training=training), tf.float32)

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    return call


def make_signatures(
    call: Callable,
    spec: tf.TensorSpec,
    name_outputs: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    read: Reader | None,
) -> dict[str, Callable]:
    """`serving_default` from `inputs`, pixels; and, where there is a `read`, `image_bytes` from encoded pictures.

    Args:
        call: from `make_call`.
        spec: of the pixels, float32 [None, height, width, channels], named "inputs".
        name_outputs: what `call` returns -> the outputs of the signatures.
        read: bytes of a picture -> pixels.

    Raises:
        ValueError: `read` gives other pixels than `spec` has.
    """

    @tf.function(input_signature=[spec])
    def serve(inputs):
        return name_outputs(call(inputs))

    if read is None:
        return {"serving_default": serve}
    pixels = _pixels_of(read, spec)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve_bytes(image_bytes):
        return serve(tf.map_fn(read, image_bytes, fn_output_signature=pixels))

    return {"serving_default": serve, "image_bytes": serve_bytes}


def name_classes(probabilities: tf.Tensor, labels: Sequence[str] | None) -> dict[str, tf.Tensor]:
    """The outputs of a classifier, probabilities [batch, classes], with the likeliest classes, the best first."""
    best, classes = tf.math.top_k(probabilities, min(TOP, probabilities.shape[-1]))
    outputs = {
        "probabilities": probabilities,
        "classes": classes[:, 0],
        f"top_{TOP}_classes": classes,
        f"top_{TOP}_probabilities": best,
    }
    return outputs if labels is None else outputs | {f"top_{TOP}_labels": tf.gather(tf.constant(labels), classes)}


def make_regularization_losses(model: keras.Model, weight_decay: float) -> list[Callable]:
    """For each kernel a function () -> weight_decay * sum of squares / 2; none without weight decay."""

    def make(kernel):
        return tf.function(lambda: weight_decay * tf.nn.l2_loss(kernel), input_signature=[])

    kernels = [variable.value for variable in model.trainable_variables if variable.path.endswith("kernel")]
    return [make(kernel) for kernel in kernels] if weight_decay else []


def _pixels_of(read, spec):
    """What `read` gives, as a TensorSpec that fits a row of `spec`."""
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
