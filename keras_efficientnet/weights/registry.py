"""Converts weights from every program in ORIGINS, and back to timm and keras.applications."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_efficientnet.weights.engine import fill
from keras_efficientnet.weights.origins.keras import KERAS_APPLICATIONS, KERAS_HUB, OURS, to_keras_applications
from keras_efficientnet.weights.origins.lukemelas import LUKEMELAS
from keras_efficientnet.weights.origins.tf1 import OFFICIAL
from keras_efficientnet.weights.origins.timm import TIMM, to_timm
from keras_efficientnet.weights.origins.torchvision import TORCHVISION
from keras_efficientnet.weights.pairing import Origin

__all__ = ["ORIGINS", "convert", "find_origin", "recognise", "to_keras_applications", "to_timm"]

# OURS comes last: keras.applications has all of its names, and more
ORIGINS = {each.name: each for each in (TIMM, TORCHVISION, LUKEMELAS, OFFICIAL, KERAS_HUB, KERAS_APPLICATIONS, OURS)}


def convert(
    model: keras.Model,
    arrays: Mapping[str, Any],
    source: str = "the arrays",
    *,
    origin: str | None = None,
    other_classes: bool = False,
) -> list[str]:
    """Fills a model with the weights of any origin: every variable, or none.

    Weights of other programs also load into a model that differs from them, with a `UserWarning` for each difference:

    - For other channels than RGB, the stem's kernels are summed (one channel), or repeated and scaled (more), as in
      timm.
    - For another number of classes, the model keeps its own classifier.
    - A file for 1001 classes loads into a model for 1000 without the background class.

    Weights of this package must match, but for the background class.

    A prefix before all names of the network, as of a wrapper or an outer model, is removed. Arrays that are not of an
    EfficientNet, such as a head of the user's own, are left out with a warning.

    Args:
        model: built by this package, with or without its top.
        arrays: arrays by name, of NumPy or of a type that `numpy.asarray` reads.
        source: name of the arrays in messages.
        origin: a name of `ORIGINS`; by default recognised from the names of the arrays. Naming the origin also accepts
            weights that were trained with another padding, with a `UserWarning`: results differ somewhat.
        other_classes: whether weights of this package, and weights without a classifier, may leave the classifier as
            it is.

    Returns:
        The names of the arrays that were used.

    Raises:
        ValueError: the origin is unknown, or the arrays do not match; the message lists the differences.

    Example:
        >>> from keras_efficientnet import EfficientNetB0
        >>> from keras_efficientnet.weights.registry import convert, to_timm
        >>> model = EfficientNetB0(include_top=False, weights=None)
        >>> len(convert(model, to_timm(model), origin="timm"))
        309
    """
    table = find_origin(arrays, origin)
    return fill(model, arrays, table, source, requested=origin is not None, other_classes=other_classes)


def recognise(names: Iterable[str]) -> Origin:
    """Returns the origin of weights by their names; for unknown names, the origin with the most similar names."""
    names = list(names)
    for origin in ORIGINS.values():
        if any(re.search(rf"(^|[./]){origin.sign}$", name) for name in names):
            return origin
    return OURS if any("/" in name for name in names) else TIMM


def find_origin(names: Iterable[str], requested: str | None) -> Origin:
    """Returns the requested row of `ORIGINS`, or recognises it from `names` if it is None.

    Raises:
        ValueError: the requested origin is unknown.
    """
    if not requested:
        return recognise(names)
    if requested not in ORIGINS:
        raise ValueError(f"Unknown origin {requested!r}. Choose one of: {', '.join(ORIGINS)}")
    return ORIGINS[requested]
