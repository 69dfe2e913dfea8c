"""Adapts weights to a network with other classes, channels or padding; each adaptation gives a message."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_efficientnet.weights.pairing import Origin, Pair

CLASSES_WITH_BACKGROUND = 1001  # of the official code: "background" comes before the 1000 ImageNet classes
DATASETS = {21843: "21843 classes, those of ImageNet-21k", 11821: "11821 classes, those of ImageNet-12k"}


class Adaptation(NamedTuple):
    """What `fill` does differently for a network that differs from the file."""

    changes: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}  # by key: applied to the array in our layout
    keeps_classifier: bool = False  # the network keeps its own classifier
    message: str | None = None


def adapt_classifier(
    pairs: Sequence[Pair], found: Mapping[str, Any], model: keras.Model, source: str, *, may_keep: bool
) -> Adaptation:
    """Adapts a classifier for other classes: drops the column of the background, or keeps the network's classifier.

    Args:
        pairs: all pairs of the network.
        found: arrays of the file, by their keys.
        model: network to fill.
        source: name of the file in messages.
        may_keep: whether the network may keep its own classifier.
    """
    classifier = [pair for pair in pairs if pair.layer == "predictions"]
    classes = _count_other_classes(classifier, [tuple(found[pair.key].shape) for pair in classifier])
    if classes is None:
        return Adaptation()
    wanted = classifier[0].variable.shape[-1]
    if classes == CLASSES_WITH_BACKGROUND == wanted + 1:
        message = f"{source} is for 1001 classes, the background first: {model.name} uses the other 1000."
        return Adaptation(changes={pair.key: _without_first for pair in classifier}, message=message)
    if not may_keep:
        return Adaptation()
    message = (
        f"{source} is for {DATASETS.get(classes, f'{classes} classes')}, {model.name} for {wanted}: its classifier "
        "is left unchanged. Train it."
    )
    return Adaptation(keeps_classifier=True, message=message)


def _count_other_classes(classifier, shapes):
    """Returns the number of classes in the file if this is all that differs from the classifier, else None."""
    if any(len(shape) != len(pair.shape) for shape, pair in zip(shapes, classifier, strict=True)):
        return None
    counts = set()
    for shape, pair in zip(shapes, classifier, strict=True):
        axis = pair.axes.index(len(pair.axes) - 1)
        if shape[:axis] + shape[axis + 1 :] != pair.shape[:axis] + pair.shape[axis + 1 :]:
            return None
        counts.add((shape[axis], pair.shape[axis]))
    if len(counts) != 1:
        return None
    (theirs, ours), *_ = counts
    return None if theirs == ours else theirs


def _without_first(array):
    return array[..., 1:]


def adapt_stem(pairs: Sequence[Pair], found: Mapping[str, Any], model: keras.Model, source: str) -> Adaptation:
    """Adapts RGB stem kernels to other channels: sums them for one channel, repeats and scales them for more.

    Args:
        pairs: all pairs of the network.
        found: arrays of the file, by their keys.
        model: network to fill.
        source: name of the file in messages.
    """
    for pair in pairs:
        if pair.layer != "stem_conv":
            continue
        axis, channels = pair.axes.index(2), pair.variable.shape[2]
        rgb = (*pair.shape[:axis], 3, *pair.shape[axis + 1 :])
        if channels != 3 and tuple(found[pair.key].shape) == rgb:
            message = f"{source} is for RGB, {model.name} for images of {channels} channels: the stem is adapted."
            return Adaptation(changes={pair.key: functools.partial(_mix_channels, channels=channels)}, message=message)
    return Adaptation()


def _mix_channels(array, *, channels):
    array = array.astype("float32")
    if channels == 1:
        return array.sum(axis=2, keepdims=True)
    return array[:, :, np.arange(channels) % 3] * (3 / channels)


def check_padding(model: keras.Model, origin: Origin, source: str, requested: bool) -> str | None:
    """Checks that the network has the padding and the epsilon that the weights were trained with.

    Args:
        model: network to fill.
        origin: origin of the weights.
        source: name of the file in messages.
        requested: whether the user asked for this origin, and so accepts another padding.

    Returns:
        A message if they differ, or None.

    Raises:
        ValueError: the padding differs, and the user did not ask for the origin.
    """
    layers = {layer.name: layer for layer in model.layers}
    if origin.graph is None or not {"stem_conv", "stem_bn"} <= set(layers):
        return None
    own = ("symmetric" if "stem_conv_pad" in layers else "same", layers["stem_bn"].epsilon)
    depth = len({name.partition("_")[0] for name in layers if name.endswith("_project_conv")})
    graphs = origin.graphs.get((depth, layers["stem_conv"].kernel.shape[-1]), (origin.graph,))
    if own in graphs:
        return None
    padding, epsilon = graphs[0]
    difference = (
        f"{source} has weights of {origin.name}, trained with {padding} padding and an epsilon of {epsilon:g}; "
        f"{model.name} has {own[0]} padding and {own[1]:g}"
    )
    if own[0] in {padding for padding, _ in graphs} or requested:
        return f"{difference}: its results are not the published ones. Train it further."
    other = "a network whose name ends in -torch" if padding == "symmetric" else "the network without -torch"
    raise ValueError(f"{difference}. Build {other}, or load them all the same with origin={origin.name!r}.")
