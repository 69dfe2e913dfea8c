"""What a file gives against what its model gives, on a few random images, before the file counts as written."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

# between a probability of the file and the model's, or a feature's as a share of the largest where that is above 1;
# rounding alone comes to some 1e-6
TOLERANCE = 1e-4
FREE_SIZE = 96  # height and width of the test images, in pixels, where the model takes any

# pixels, float32 [n, height, width, channels] -> probabilities, float32 [n, classes]
Classifier = Callable[[np.ndarray], np.ndarray]


def compare(model: keras.Model, function: Classifier, what: str, outputs: str = "probabilities") -> float:
    """The largest difference between the probabilities of a file and of its model; raises if it is too large.

    `outputs` is "probabilities", or "features" of any size.
    """
    _, height, width, channels = model.input_shape
    images = random_images(height or FREE_SIZE, width or FREE_SIZE, channels)
    with full_precision():
        expected = model(images, training=False).numpy()
        found = function(images)
    for name, values in ((model.name, expected), (f"The {what} of {model.name}", found)):
        if not np.isfinite(values).all():
            raise RuntimeError(f"{name} gives {outputs} that are not finite. Nothing was written.")
    if outputs == "probabilities" and (expected.min() < 0 or expected.max() > 1 + TOLERANCE):
        raise ValueError(f"{model.name} gives no probabilities. Build it with a `classifier_activation`, 'softmax'.")
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if difference > allowed:
        raise RuntimeError(
            f"The {what} gives other {outputs} than {model.name}: on {len(images)} random images they differ by "
            f"up to {difference:.2g}, where {allowed:.2g} is allowed. Nothing was written."
        )
    return difference


def random_images(height, width, channels):
    """Random images, float32 [3, height, width, channels] from 0 to 255: coarse patches, finer ones, single pixels."""
    random = np.random.default_rng(0)
    images = np.empty((3, height, width, channels), "float32")
    for image, patch in zip(images, (32, 8, 1), strict=True):
        patches = random.uniform(0, 255, (-(-height // patch), -(-width // patch), channels))
        image[:] = patches.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    return images


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switches off the rounding of convolutions to 10 bits that GPUs have as a default."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
