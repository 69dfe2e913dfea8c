"""What a file gives against what its model gives, on a few random images, before the file counts as written."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

# between a probability of the file and the model's, or a feature's as a share of the largest where that is above 1;
# rounding alone comes to some 1e-6
TOLERANCE = 1e-4
ROUGH_TOLERANCE = 0.2  # share of the probability that may go to other classes in a quantised file, on average
ROUGH_IMAGES = 32
FREE_SIZE = 96  # height and width of the test images, in pixels, where the model takes any

# pixels, float32 [n, height, width, channels] -> probabilities, float32 [n, classes]
Classifier = Callable[[np.ndarray], np.ndarray]


def compare(model: keras.Model, function: Classifier, what: str, outputs: str = "probabilities") -> float:
    """The largest difference between the probabilities of a file and of its model; raises if it is too large.

    Args:
        model: what was exported.
        function: the file.
        what: it is called in errors.
        outputs: "probabilities", or "features" of any size.
    """
    images = images_for(model)
    expected, found = _run(model, function, what, outputs, images)
    difference = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if difference > allowed:
        raise RuntimeError(
            f"The {what} gives other {outputs} than {model.name}: on {len(images)} random images they differ by "
            f"up to {difference:.2g}, where {allowed:.2g} is allowed. Nothing was written."
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
    images = images_for(model) if images is None else images[:ROUGH_IMAGES]
    expected, found = _run(model, function, what, "probabilities", images)
    share = float(np.abs(found - expected).sum(axis=1).mean() / 2)
    if share > ROUGH_TOLERANCE:
        raise RuntimeError(
            f"The {what} gives other probabilities than {model.name}: on {len(images)} images it gives {share:.0%} of "
            f"the probability to other classes, where {ROUGH_TOLERANCE:.0%} is allowed. Nothing was written."
        )
    return float(np.abs(found - expected).max())


def images_for(model: keras.Model) -> np.ndarray:
    """`random_images` of the size that a model takes, of `FREE_SIZE` where it takes any."""
    _, height, width, channels = model.input_shape
    return random_images(height or FREE_SIZE, width or FREE_SIZE, channels)


def _run(model, function, what, outputs, images):
    """What the model and its file give; raises unless it is `outputs`."""
    with full_precision():
        expected = model(images, training=False).numpy()
        found = function(images)
    for name, values in ((model.name, expected), (f"The {what} of {model.name}", found)):
        if not np.isfinite(values).all():
            raise RuntimeError(f"{name} gives {outputs} that are not finite. Nothing was written.")
    if outputs == "probabilities" and (expected.min() < 0 or expected.max() > 1 + TOLERANCE):
        raise ValueError(f"{model.name} gives no probabilities. Let it end in a softmax: `classifier_activation`.")
    return expected, found


def random_images(height, width, channels):
    """Random bytes, float32 [3, height, width, channels] from 0 to 255: coarse patches, finer ones, single pixels."""
    random = np.random.default_rng(0)
    images = np.empty((3, height, width, channels), "float32")
    for image, patch in zip(images, (32, 8, 1), strict=True):
        patches = random.uniform(0, 255, (-(-height // patch), -(-width // patch), channels))
        image[:] = np.rint(patches).repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
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
