"""A file's probabilities against its model's, on a few random images, before the file counts as written."""

import contextlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

TOLERANCE = 1e-4  # between a probability of the file and the model's; rounding alone comes to some 1e-6
ROUGH_TOLERANCE = 0.2  # share of the probability that may go to other classes in a quantised file, on average
ROUGH_IMAGES = 32
FREE_SIZE = 96  # height and width of the test images, in pixels, where the model takes any

# pixels, float32 [n, height, width, channels] -> probabilities, float32 [n, classes]
Classifier = Callable[[np.ndarray], np.ndarray]


def compare(model: keras.Model, function: Classifier, what: str, *, bytes_only: bool = False) -> float:
    """The largest difference between the probabilities of a file and of its model; raises if it is too large.

    Args:
        model: what was exported.
        function: the file.
        what: it is called in errors.
        bytes_only: whether it takes whole numbers.
    """
    images = _random_images(model)
    expected, found = _run(model, function, what, np.rint(images) if bytes_only else images)
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE:
        raise RuntimeError(
            f"The {what} gives other probabilities than {model.name}: on {len(images)} random images they differ by "
            f"up to {difference:.2g}, where {TOLERANCE:g} is allowed. Nothing was written."
        )
    return difference


def compare_roughly(model: keras.Model, function: Classifier, what: str, images: np.ndarray | None = None) -> float:
    """As `compare`, for a file whose numbers are rounded: tells a broken one from one that is only less exact.

    The share of probability that goes to other classes than the model's (half the sum of the differences), on average
    over the images, may be `ROUGH_TOLERANCE`. Networks trained on digits have at most 0.02 in all formats; a file that
    always gives the same answer, or that of another image, has 0.7 and more.

    Args:
        model: what was exported.
        function: the file.
        what: it is called in errors.
        images: float32 [n, height, width, channels] from 0 to 255, of which the first `ROUGH_IMAGES` are taken; random
            ones by default.
    """
    images = np.rint(_random_images(model)) if images is None else images[:ROUGH_IMAGES]
    expected, found = _run(model, function, what, images)
    share = float(np.abs(found - expected).sum(axis=1).mean() / 2)
    if share > ROUGH_TOLERANCE:
        raise RuntimeError(
            f"The {what} gives other probabilities than {model.name}: on {len(images)} images it gives {share:.0%} of "
            f"the probability to other classes, where {ROUGH_TOLERANCE:.0%} is allowed. Nothing was written."
        )
    return float(np.abs(found - expected).max())


def _random_images(model):
    _, height, width, channels = model.input_shape
    return _make_images(height or FREE_SIZE, width or FREE_SIZE, channels)


def _run(model, function, what, images):
    """The probabilities of the model and of its file; raises unless they are some."""
    with _full_precision():
        expected = model(images, training=False).numpy()
        found = function(images)
    for name, probabilities in ((model.name, expected), (f"The {what} of {model.name}", found)):
        if not np.isfinite(probabilities).all():
            raise RuntimeError(f"{name} gives probabilities that are not finite. Nothing was written.")
    if expected.min() < 0 or expected.max() > 1 + TOLERANCE:
        raise ValueError(f"{model.name} gives no probabilities. Build it with a `classifier_activation`, 'softmax'.")
    return expected, found


def _make_images(height, width, channels):
    """Random images, float32 [3, height, width, channels] from 0 to 255: coarse patches, finer ones, single pixels."""
    random = np.random.default_rng(0)
    images = np.empty((3, height, width, channels), "float32")
    for image, patch in zip(images, (32, 8, 1), strict=True):
        patches = random.uniform(0, 255, (-(-height // patch), -(-width // patch), channels))
        image[:] = patches.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    return images


@contextlib.contextmanager
def _full_precision():
    """Switches off the rounding of convolutions to 10 bits that GPUs have as a default."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
