"""Compares the outputs of an exported file with those of its model: the one place that measures agreement."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Allowed difference of a probability, or of a feature relative to the largest if that is above 1. Rounding alone causes
# about 1e-6.
TOLERANCE = 1e-4
# Share of the probability that a quantized file may move to other classes, on average. Networks trained on digits have
# at most 0.02 in all formats; a file that always gives the same answer, or that of another image, has 0.7 and more.
ROUGH_TOLERANCE = 0.2
ROUGH_IMAGES = 32
BATCH = 32
FREE_SIZE = 96  # height and width of test images in pixels, for models of any size

# pixels, float32 [n, height, width, channels] -> probabilities, float32 [n, classes]
Classifier = Callable[[np.ndarray], np.ndarray]


class Agreement(NamedTuple):
    """Outputs of a model and of its exported file for the same images, [n, classes]."""

    expected: np.ndarray  # of the model
    found: np.ndarray  # of the file

    @property
    def differences(self) -> np.ndarray:
        """Absolute difference of each output."""
        return np.abs(self.found - self.expected)

    @property
    def same_class(self) -> float:
        """Share of the images for which model and file predict the same class."""
        return float((self.found.argmax(axis=1) == self.expected.argmax(axis=1)).mean())

    @property
    def moved(self) -> float:
        """Share of the probability that the file gives to other classes than the model, averaged over the images."""
        return float(self.differences.sum(axis=1).mean() / 2)


def compare(model: keras.Model, functions: Iterable[Classifier], images: Iterable[np.ndarray]) -> list[Agreement]:
    """Runs a model and the files exported from it on the same images.

    Args:
        model: the model.
        functions: the open files, as `load_tflite` returns them.
        images: batches of pixels, float32 [n, height, width, channels] from 0 to 255; read once.

    Returns:
        The agreement of each file.
    """
    functions = list(functions)
    expected: list[np.ndarray] = []
    found: list[list[np.ndarray]] = [[] for _ in functions]
    with full_precision():
        for pixels in images:
            expected.append(np.asarray(model(pixels, training=False)))
            for outputs, function in zip(found, functions, strict=True):
                outputs.append(np.asarray(function(pixels)))
    return [Agreement(expected=np.concatenate(expected), found=np.concatenate(outputs)) for outputs in found]


def check_exact(model: keras.Model, function: Classifier, what: str, outputs: str = "probabilities") -> float:
    """Returns the largest difference between the outputs of a file and of its model on random images.

    Args:
        model: the exported model.
        function: the open file.
        what: name of the file in errors.
        outputs: "probabilities", or "features" of any size.

    Raises:
        RuntimeError: the difference exceeds `TOLERANCE`, or outputs are not finite.
        ValueError: the outputs should be probabilities and are not.
    """
    result = _check_outputs(model, function, what, outputs, images_for(model))
    difference = float(result.differences.max())
    allowed = TOLERANCE * max(1.0, float(np.abs(result.expected).max()))
    if difference > allowed:
        raise RuntimeError(
            f"The {what} gives other {outputs} than {model.name}: on {len(result.found)} random images they differ by "
            f"up to {difference:.2g}, where {allowed:.2g} is allowed. Nothing was written."
        )
    return difference


def check_roughly(model: keras.Model, function: Classifier, what: str, images: np.ndarray | None = None) -> float:
    """Returns the largest difference of a probability for a quantized file; distinguishes broken from less exact files.

    Args:
        model: the exported model.
        function: the open file.
        what: name of the file in errors.
        images: float32 [n, height, width, channels] from 0 to 255, of which the first `ROUGH_IMAGES` are used; random
            images by default.

    Raises:
        RuntimeError: more than `ROUGH_TOLERANCE` of the probability moves, or probabilities are not finite.
        ValueError: the outputs are not probabilities.
    """
    images = images_for(model) if images is None else images[:ROUGH_IMAGES]
    result = _check_outputs(model, function, what, "probabilities", images)
    if result.moved > ROUGH_TOLERANCE:
        raise RuntimeError(
            f"The {what} gives other probabilities than {model.name}: on {len(images)} images it gives "
            f"{result.moved:.0%} of the probability to other classes, where {ROUGH_TOLERANCE:.0%} is allowed. Nothing "
            "was written."
        )
    return float(result.differences.max())


def batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the images in batches."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def images_for(model: keras.Model) -> np.ndarray:
    """Returns three random images of the input size of a model, of `FREE_SIZE` if it accepts any size."""
    _, height, width, channels = model.input_shape
    return random_images(height or FREE_SIZE, width or FREE_SIZE, channels)


def random_images(height: int, width: int, channels: int) -> np.ndarray:
    """Returns images of coarse patches, of finer patches, and of random pixels: float32 [3, height, width, channels].

    Example:
        >>> random_images(32, 48, 3).shape
        (3, 32, 48, 3)
    """
    random = np.random.default_rng(0)
    images: np.ndarray = np.empty((3, height, width, channels), "float32")
    for image, patch in zip(images, (32, 8, 1), strict=True):
        patches = random.uniform(0, 255, (-(-height // patch), -(-width // patch), channels))
        image[:] = np.rint(patches).repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    return images


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Disables TensorFloat-32, by which GPUs round the inputs of convolutions to 10 bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _check_outputs(model, function, what, outputs, images) -> Agreement:
    """Returns the agreement; raises an error if the outputs are not what `outputs` says."""
    [result] = compare(model, [function], batches(images))
    for name, values in ((model.name, result.expected), (f"The {what} of {model.name}", result.found)):
        if not np.isfinite(values).all():
            raise RuntimeError(f"{name} gives {outputs} that are not finite. Nothing was written.")
    if outputs == "probabilities" and (result.expected.min() < 0 or result.expected.max() > 1 + TOLERANCE):
        raise ValueError(f"{model.name} gives no probabilities. Let it end in a softmax: `classifier_activation`.")
    return result
