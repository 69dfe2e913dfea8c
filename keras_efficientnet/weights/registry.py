"""Weights of every origin -> ours, and ours -> those of others: one engine, and a table for each origin."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_efficientnet.weights.engine import Origin, count_classes, fill, network_layers, pair_variables
from keras_efficientnet.weights.origins.keras import KERAS_APPLICATIONS, KERAS_HUB, OURS
from keras_efficientnet.weights.origins.keras_applications import to_keras_applications
from keras_efficientnet.weights.origins.pytorch import LUKEMELAS, TIMM, TORCHVISION, to_timm
from keras_efficientnet.weights.origins.tf1 import OFFICIAL

__all__ = ["ORIGINS", "convert", "count_classes", "find_origin", "from_timm", "network_layers", "pair_variables"]
__all__ += ["recognise", "to_keras_applications", "to_timm"]

# ours last: keras.applications has its names and more
ORIGINS = {
    origin.name: origin for origin in (TIMM, TORCHVISION, LUKEMELAS, OFFICIAL, KERAS_HUB, KERAS_APPLICATIONS, OURS)
}


def convert(
    model: keras.Model,
    arrays: Mapping[str, Any],
    source: str = "the arrays",
    *,
    origin: str | None = None,
    other_classes: bool = False,
) -> list[str]:
    """Fills a model with weights of any origin: all of it or nothing.

    A model for other images than RGB takes the stem's kernels summed over RGB (one channel), or repeated and scaled
    (more), as timm does. One with another number of classes keeps its own classifier; one with 1000 leaves out the
    background of a file for 1001. Each gives a `UserWarning`. Files of this package must fit, but for the background.

    Args:
        model: built by this package, with or without its top.
        arrays: by their names there; arrays of numpy, or what becomes one when it is read.
        source: what to call them in an error.
        origin: a name of `ORIGINS`; by default it is told from the names of the arrays. A name also asks for weights
            that were trained with another padding than the model has, which differ somewhat, and gives a `UserWarning`.
        other_classes: whether files of this package too may leave the classifier as it is.

    Returns:
        The names of the arrays that were taken.

    Raises:
        ValueError: unknown origin; or the arrays do not fit, and the message says what differs.
    """
    table = find_origin(arrays, origin)
    return fill(model, arrays, table, source, asked=origin is not None, other_classes=other_classes)


def recognise(names: Iterable[str]) -> Origin:
    """The origin of weights, by their names; where none is known, the one whose names look alike."""
    names = list(names)
    for origin in ORIGINS.values():
        if any(re.search(origin.sign, name) for name in names):
            return origin
    return OURS if any("/" in name for name in names) else TIMM


def find_origin(names: Iterable[str], asked: str | None) -> Origin:
    """The row of `ORIGINS` that is asked for, else that of the names; raises a ValueError if there is no such row."""
    if not asked:
        return recognise(names)
    if asked not in ORIGINS:
        raise ValueError(f"Unknown origin {asked!r}. Choose one of: {', '.join(ORIGINS)}")
    return ORIGINS[asked]


def from_timm(model: keras.Model, arrays: Mapping[str, Any], source: str = "the arrays") -> None:
    """`convert` of timm's `state_dict` as arrays of numpy."""
    fill(model, arrays, TIMM, source)
