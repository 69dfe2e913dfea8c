"""Fills a network from the arrays of another program, and extracts them again. All conversions use it."""

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_efficientnet.weights.fitting import adapt_classifier, adapt_stem, check_padding
from keras_efficientnet.weights.pairing import Origin, Pair, find_network, pair_variables

HINT = "Check that the file is for this network."
MAX_NAMES = 8  # listed in an error


def fill(
    model: keras.Model,
    arrays: Mapping[str, Any],
    origin: Origin,
    source: str,
    *,
    requested: bool = False,
    other_classes: bool = False,
) -> list[str]:
    """Fills every variable of a model, or none: each array of an EfficientNet must be used, and each shape must match.

    Args:
        model: built by this package, with or without its top.
        arrays: arrays by name, of NumPy or of a type that `numpy.asarray` reads; one at a time is in memory.
        origin: program that named them.
        source: name of the file in messages.
        requested: whether the user asked for this origin, and so accepts weights trained with another padding.
        other_classes: whether the model may keep its classifier, where the origin does not adapt, or the file has none.

    Returns:
        The names in the file of the arrays that were used.

    Raises:
        ValueError: names, shapes, types or padding do not match, or numbers cannot be read, or `check_numbers` raises.
    """
    pairs = list(pair_variables(model, origin))
    messages = [check_padding(model, origin, source, requested)]
    keys, others = find_network(arrays, origin)
    if other_classes and _lacks_classifier(pairs, keys):
        pairs = _without_classifier(pairs)
        messages.append(f"{source} has no classifier for {model.name}: its classifier is left unchanged. Train it.")
    messages.append(_check_names(pairs, keys, others, model, origin, source))
    found = {pair.key: arrays[keys[pair.key]] for pair in pairs}
    for pair in pairs:
        _check_type(pair, found[pair.key], model, source)
    adaptations = [adapt_classifier(pairs, found, model, source, may_keep=origin.adapts or other_classes)]
    adaptations += [adapt_stem(pairs, found, model, source)] if origin.adapts else []
    pairs = _without_classifier(pairs) if adaptations[0].keeps_classifier else pairs
    changes = {key: change for each in adaptations for key, change in each.changes.items()}
    for pair in pairs:
        _check_shape(pair, found[pair.key], changes, model, source)
    # reads everything once, so that an array that cannot be used leaves the model unchanged
    check_numbers(((keys[pair.key], pair.variable, _to_ours(pair, found, changes)) for pair in pairs), source)
    for message in filter(None, (*messages, *(each.message for each in adaptations))):
        warnings.warn(message, stacklevel=4)  # before filling: a warning may be an error
    for pair in pairs:
        pair.variable.assign(_to_ours(pair, found, changes).astype(pair.variable.dtype, copy=False))
    return [keys[pair.key] for pair in pairs]


def check_numbers(rows: Iterable[tuple[str, keras.Variable, np.ndarray]], source: str) -> None:
    """Checks the numbers of weights, before any variable gets them.

    Args:
        rows: name, variable and new value of each array.
        source: name of the file in messages.

    Raises:
        ValueError: a value is NaN or infinite, or becomes infinite in the type of its variable, or a variance is
            negative; the message names the arrays and counts the values.
    """
    faults = [f"{name} ({fault})" for name, variable, array in rows if (fault := _describe_fault(variable, array))]
    if faults:
        more = f" and {len(faults) - MAX_NAMES} more arrays" if len(faults) > MAX_NAMES else ""
        raise ValueError(
            f"{source} has values that no network can use: {', '.join(faults[:MAX_NAMES])}{more}. The file is damaged, "
            "or its training diverged: use an earlier checkpoint or another file."
        )


def _describe_fault(variable, array):
    """Returns how many values of an array are of no use, and why; an empty string if there are none."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(variable.dtype, copy=False))
    is_variance = variable.name.endswith("variance")
    if finite.all() and not (is_variance and (array < 0).any()):
        return ""
    counts = {
        "NaN": np.isnan(array),
        "infinite": np.isinf(array),
        f"too large for {variable.dtype}": np.isfinite(array) & ~finite,
        "negative variances": np.isfinite(array) & (array < 0) & is_variance,
    }
    found = ", ".join(f"{np.count_nonzero(where):,} {kind}" for kind, where in counts.items() if where.any())
    return f"{found}, of {array.size:,} values"


def _to_ours(pair, found, changes):
    """Returns an array of the file in our layout, adapted to the network."""
    array = pair.to_ours(found[pair.key])
    with np.errstate(over="ignore", invalid="ignore"):  # `check_numbers` counts what is not finite
        return changes[pair.key](array) if pair.key in changes else array


def extract(model: keras.Model, origin: Origin) -> Iterator[tuple[Pair, np.ndarray]]:
    """Yields every variable of the network with its array in the layout of the origin, one at a time."""
    for pair in pair_variables(model, origin):
        yield pair, pair.to_theirs()


def count_classes(arrays: Mapping[str, Any], origin: Origin) -> int | None:
    """Returns the number of classes that weights are for, or None if they have no classifier."""
    keys, _ = find_network(arrays, origin)
    key = keys.get(f"{origin.ends['predictions']}{origin.separator}{origin.leaves['bias']}")
    return None if key is None else math.prod(arrays[key].shape)


def _without_classifier(pairs):
    return [pair for pair in pairs if pair.layer != "predictions"]


def _lacks_classifier(pairs, keys):
    classifier = [pair.key for pair in pairs if pair.layer == "predictions"]
    return bool(classifier) and not any(key in keys for key in classifier)


def _check_names(pairs, keys, others, model, origin, source):
    """Checks that the file has all arrays of the network. Returns a message about arrays of no EfficientNet."""
    wanted = {pair.key for pair in pairs}
    present = {layer.name for layer in model.layers}
    absent = {theirs for ours, theirs in origin.ends.items() if ours not in present and ours != "stem_conv"}
    missing = sorted(wanted - set(keys))
    extra = {name for name in set(keys) - wanted if name.rpartition(origin.separator)[0] not in absent}
    unused = sorted(keys[name] for name in extra if origin.owns(name) and not re.search(origin.extras, name))
    foreign = sorted([*others, *(keys[name] for name in extra if not origin.owns(name))])
    foreign = [name for name in foreign if not re.search(origin.extras, name)]
    if not (missing or unused):
        return foreign and (
            f"{source} has arrays that are not of an EfficientNet, as of a head of your own. They are left out: "
            f"{_shorten(foreign)}."
        )
    top = {pair.key for pair in pairs if pair.layer == "predictions"}
    hint = "Build the model with include_top=False." if set(missing) == top and not unused else HINT
    raise ValueError(
        f"{source} does not match {model.name}. Missing: {_shorten(missing)}. Unused: {_shorten(unused + foreign)}. "
        f"{hint}"
    )


def _check_type(pair, array, model, source):
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise ValueError(f"{source} does not match {model.name}: {pair.key} has numbers of type {array.dtype}.")


def _check_shape(pair, array, changes, model, source):
    shape = tuple(array.shape)
    if shape == pair.shape or pair.key in changes:
        return
    hint = HINT
    if pair.layer == "predictions" and len(shape) == len(pair.shape):
        classes = shape[pair.axes.index(len(shape) - 1)]
        hint = f"Build the model with classes={classes}, or with include_top=False to load everything else."
    raise ValueError(
        f"{source} does not match {model.name}: {pair.key} is {list(pair.shape)}, the file has {list(shape)}. {hint}"
    )


def _shorten(names):
    more = len(names) - MAX_NAMES
    return names if more <= 0 else f"[{', '.join(map(repr, names[:MAX_NAMES]))} and {more} more]"
