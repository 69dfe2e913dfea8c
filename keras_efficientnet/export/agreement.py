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
# How far the outputs of a quantized file may be from the model's, see `Agreement.moved` and `Agreement.strayed`.
# Share of the probability that a quantized file may move to other classes, on average. Networks trained on digits have
# at most 0.02 in all formats; a file that always gives the same answer, or that of another image, has 0.7 and more.
ROUGH_TOLERANCE = 0.2
# For other outputs, relative to how much they vary: a file that always gives the mean has 1, one that gives the outputs
# of another image 1.4.
ROUGH_TOLERANCE_OF_VALUES = 0.5
ROUGH_IMAGES = 32
BATCH = 32
FREE_SIZE = 96  # height and width of test images in pixels, for models of any size

POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
# pixels, float32 [n, height, width, channels] -> probabilities or other outputs, float32 [n, size]
Classifier = Callable[[np.ndarray], np.ndarray]


class Agreement(NamedTuple):
    """Outputs of a model and of its exported file for the same images, [n, size]."""

    expected: np.ndarray  # of the model
    found: np.ndarray  # of the file

    @property
    def differences(self) -> np.ndarray:
        """Absolute difference of each output."""
        return np.abs(self.found - self.expected)

    @property
    def same_class(self) -> float:
        """Share of the images for which model and file predict the same class; a single output is that of class 1."""
        classes = [x.argmax(axis=1) if x.shape[1] > 1 else x[:, 0] > 0.5 for x in (self.found, self.expected)]
        return float((classes[0] == classes[1]).mean())

    @property
    def moved(self) -> float:
        """Share of the probability that the file gives to other classes than the model, averaged over the images."""
        return float(self.differences.sum(axis=1).mean() / 2)

    @property
    def cosine(self) -> float:
        """Cosine similarity of the outputs, averaged over the images."""
        lengths = np.linalg.norm(self.found, axis=1) * np.linalg.norm(self.expected, axis=1)
        products = (self.found * self.expected).sum(axis=1)
        equal = (self.found == self.expected).all(axis=1)  # also where all are 0
        return float(np.where(equal, 1.0, products / np.where(lengths, lengths, 1.0)).mean())

    @property
    def strayed(self) -> float:
        """Mean difference, relative to how far the model's outputs are from their mean over the images."""
        spread = np.abs(self.expected - self.expected.mean(axis=0)).mean()
        return float(self.differences.mean() / max(spread, TOLERANCE * np.abs(self.expected).mean(), TOLERANCE**2))


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


def name_outputs(model: keras.Model) -> str:
    """Returns what a model gives for an image: "probabilities", "features", or "outputs" of any other kind.

    Features are those of a last pooling. Other outputs are logits, embeddings, or the numbers of a regression.

    Example:
        >>> image = keras.Input((32, 32, 3))
        >>> features = keras.layers.GlobalAveragePooling2D()(image)
        >>> [name_outputs(keras.Model(image, keras.layers.Dense(2, end)(features))) for end in ("softmax", None)]
        ['probabilities', 'outputs']
    """
    last = _find_last(model)
    if isinstance(last, POOLING):
        return "features"
    ends = (keras.activations.softmax, keras.activations.sigmoid)
    if isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) in ends:
        return "probabilities"
    values = np.asarray(model(images_for(model), training=False))
    shares = bool(values.min() >= 0) and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    return "probabilities" if shares else "outputs"


def _find_last(model):
    """Returns the layer or operation that gives the outputs of a model, also of one inside it."""
    last = (getattr(model, "operations", None) or model.layers)[-1]
    return _find_last(last) if isinstance(last, keras.Model) and last.layers else last


def check_exact(model: keras.Model, function: Classifier, what: str) -> float:
    """Returns the largest difference between the outputs of a file and of its model on random images.

    Args:
        model: the exported model.
        function: the open file.
        what: name of the file in errors.

    Raises:
        RuntimeError: the difference exceeds `TOLERANCE`, or outputs are not finite.
    """
    outputs = name_outputs(model)
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
    """Returns the largest difference of an output for a quantized file; distinguishes broken from less exact files.

    Args:
        model: the exported model.
        function: the open file.
        what: name of the file in errors.
        images: float32 [n, height, width, channels] from 0 to 255, of which the first `ROUGH_IMAGES` are used; random
            images by default.

    Raises:
        RuntimeError: more than `ROUGH_TOLERANCE` of the probability moves, other outputs differ by more than
            `ROUGH_TOLERANCE_OF_VALUES` of their variation, or outputs are not finite.
    """
    images = images_for(model) if images is None else images[:ROUGH_IMAGES]
    outputs = name_outputs(model)
    result = _check_outputs(model, function, what, outputs, images)
    if outputs != "probabilities" and result.strayed > ROUGH_TOLERANCE_OF_VALUES:
        raise RuntimeError(
            f"The {what} gives other {outputs} than {model.name}: on {len(images)} images they differ by "
            f"{result.strayed:.0%} of their variation, where {ROUGH_TOLERANCE_OF_VALUES:.0%} is allowed. Nothing was "
            "written."
        )
    if outputs == "probabilities" and result.moved > ROUGH_TOLERANCE:
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
    """Returns the agreement; raises a RuntimeError if outputs are not finite."""
    [result] = compare(model, [function], batches(images))
    for name, values in ((model.name, result.expected), (f"The {what} of {model.name}", result.found)):
        if not np.isfinite(values).all():
            raise RuntimeError(f"{name} gives {outputs} that are not finite. Nothing was written.")
    return result
