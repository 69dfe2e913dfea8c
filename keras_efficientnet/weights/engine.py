"""The engine of all conversions: the variables of a network <-> arrays under the names of another program."""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_efficientnet.weights.fitting import check_padding, fit_classifier, fit_stem

ENDS = ("stem_conv", "stem_bn", "top_conv", "top_bn", "predictions")  # the layers outside the blocks


class Origin(NamedTuple):
    """How a program calls the weights of an EfficientNet, and how they lie there: tables from ours."""

    name: str
    sign: str  # pattern of a name that its files have and no other's
    ends: Mapping[str, str]
    block: str  # what names in a block begin with; of {name} ("block2a"), {stage}, {repeat}, {index}, {above}
    pieces: Mapping[str, Mapping[str, str]]  # by the kind of block: plain, widening, fused, conditional
    leaves: Mapping[str, str]  # of a variable, or of class/variable
    separator: str = "/"  # between a layer and its variable
    axes: Mapping[str, tuple[int, ...]] = {}  # of a kernel, by class: theirs from ours, if they are others
    flattens: bool = False  # the kernels of experts lie as [experts, everything else]
    extras: str = r"(?!)"  # pattern of names that have no counterpart
    rename: Callable[[Iterable[str]], dict[str, str]] | None = None  # names of files -> those of the tables
    graph: tuple[str, float] | None = None  # padding and epsilon that its weights were trained with; None: any
    graphs: Mapping[tuple[int, int], tuple[tuple[str, float], ...]] = {}  # others; by blocks and filters of the stem
    adapts: bool = True  # also to another number of channels or classes, with a warning


class Pair(NamedTuple):
    """A variable of ours and what it is there."""

    variable: keras.Variable
    layer: str
    leaf: str
    key: str
    axes: tuple[int, ...]
    flat: bool

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape there, before the experts are flattened."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.full_shape
        return (shape[0], math.prod(shape[1:])) if self.flat else shape

    def to_ours(self, array: Any) -> np.ndarray:
        """The array in our layout."""
        array = np.asarray(array)
        return (array.reshape(self.full_shape) if self.flat else array).transpose(np.argsort(self.axes))

    def to_theirs(self) -> np.ndarray:
        """What the variable holds, in their layout."""
        array = np.asarray(keras.ops.convert_to_numpy(self.variable)).transpose(self.axes)
        return np.ascontiguousarray(array.reshape(self.shape))


def fill(
    model: keras.Model,
    arrays: Mapping[str, Any],
    origin: Origin,
    source: str,
    *,
    asked: bool = False,
    other_classes: bool = False,
) -> list[str]:
    """Fills a model: every variable once, every array used, every shape right, or nothing at all.

    Args:
        model: built by this package, with or without its top.
        arrays: arrays of numpy, or what becomes one by `numpy.asarray`; of these one at a time is in memory.
        origin: whose names they have.
        source: what to call them in an error.
        asked: whether somebody asked for this origin, and so for weights that were trained with another padding.
        other_classes: whether a model of other classes may keep its classifier, where the origin does not adapt.

    Returns:
        The names in the file of the arrays that were taken.

    Raises:
        ValueError: names, shapes, types or the padding do not fit, or numbers cannot be read.
    """
    pairs = list(pair_variables(model, origin))
    messages = [check_padding(model, origin, source, asked)]
    keys = _keys(arrays, origin)
    _check_names(pairs, keys, model, origin, source)
    found = {pair.key: arrays[keys[pair.key]] for pair in pairs}
    for pair in pairs:
        _check_type(pair, found[pair.key], model, source)
    adapts = {"classifier": origin.adapts or other_classes, "stem": origin.adapts}
    pairs, cut, message = fit_classifier(pairs, found, model, source, adapts["classifier"])
    messages.append(message)
    mix, message = fit_stem(pairs, found, model, source) if adapts["stem"] else ({}, None)
    messages.append(message)
    changes = cut | mix
    for pair in pairs:
        _check_shape(pair, found[pair.key], changes, model, source)
    for pair in pairs:  # whatever cannot be read is seen before anything is filled
        np.asarray(found[pair.key])
    for text in filter(None, messages):  # which may be errors
        warnings.warn(text, stacklevel=4)
    for pair in pairs:
        array = pair.to_ours(found[pair.key])
        array = changes[pair.key](array) if pair.key in changes else array
        pair.variable.assign(array.astype(pair.variable.dtype, copy=False))
    return [keys[pair.key] for pair in pairs]


def extract(model: keras.Model, origin: Origin) -> Iterator[tuple[Pair, np.ndarray]]:
    """Every variable of the network with its array, in the layout of the origin, one at a time."""
    for pair in pair_variables(model, origin):
        yield pair, pair.to_theirs()


def pair_variables(model: keras.Model, origin: Origin) -> Iterator[Pair]:
    """Every variable of the network with its name there; layers of other names, before or after it, are left out.

    Raises:
        ValueError: there is no EfficientNet in the model, or it has a layer that none of the origin has.
    """
    layers = network_layers(model)
    present = {layer.name for layer in layers}
    blocks = list(dict.fromkeys(layer.name.partition("_")[0] for layer in layers if layer.name not in ENDS))
    for layer in layers:
        there = _name(layer.name, present, blocks, origin)
        kind = type(layer).__name__
        for variable in layer.weights:
            leaf = variable.name.split("/")[-1]
            theirs = origin.leaves.get(f"{kind}/{leaf}", origin.leaves.get(leaf))
            if there is None or theirs is None:
                raise ValueError(
                    f"{model.name} has {layer.name}/{leaf}, which is no part of an EfficientNet of {origin.name}."
                )
            rank = len(variable.shape)
            axes = origin.axes.get(kind, ()) if rank > 1 else ()
            flat = origin.flattens and rank == 5
            key = f"{there}{origin.separator}{theirs}"
            yield Pair(variable, layer.name, leaf, key, axes or tuple(range(rank)), flat)


def network_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers with weights that are an EfficientNet's, by their names.

    Raises:
        ValueError: there are none.
    """
    layers = [x for x in model.layers if x.weights and (x.name in ENDS or re.match(r"block\d+[a-z]_", x.name))]
    if not layers:
        inner = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = f" Give {model.name}.get_layer({inner[0]!r})." if inner else ""
        raise ValueError(f"{model.name} has no layer of an EfficientNet of this package.{hint}")
    return layers


def count_classes(arrays: Mapping[str, Any], origin: Origin) -> int | None:
    """The number of classes that weights are for; None: they are without a classifier."""
    keys = _keys(arrays, origin)
    key = keys.get(f"{origin.ends['predictions']}{origin.separator}{origin.leaves['bias']}")
    return None if key is None else math.prod(arrays[key].shape)


def _keys(arrays, origin):
    """The names of the tables, and what they are called in the file."""
    return {name: name for name in arrays} if origin.rename is None else origin.rename(arrays)


def _name(name, present, blocks, origin):
    """The name there of the layer `name`, in a network whose layers with weights are `present`; None: there is none."""
    if name in ENDS:
        return origin.ends[name]
    place = re.fullmatch(r"(block(\d+)([a-z]))_(\w+)", name)
    if not place:
        return None
    block, stage, repeat, piece = place.groups()
    tables = origin.pieces
    if f"{block}_dwconv" not in present:
        table = tables.get("fused", {})
    elif f"{block}_routing" in present:
        table = tables.get("conditional", {})
    else:
        table = tables["widening" if f"{block}_expand_conv" in present else "plain"]
    number, index = int(stage), blocks.index(block)
    before = origin.block.format(name=block, stage=number - 1, above=number, repeat=ord(repeat) - 97, index=index)
    return f"{before}{table[piece]}" if piece in table else None


def _check_names(pairs, keys, model, origin, source):
    wanted = {pair.key for pair in pairs}
    present = {layer.name for layer in model.layers}
    absent = {there for ours, there in origin.ends.items() if ours not in present and ours != "stem_conv"}
    unused = sorted(
        name
        for name in set(keys) - wanted
        if not re.search(origin.extras, name) and name.rpartition(origin.separator)[0] not in absent
    )
    missing = sorted(wanted - set(keys))
    if not (missing or unused):
        return
    top = {pair.key for pair in pairs if pair.layer == "predictions"}
    mend = "Build the model with include_top=False." if set(missing) == top else "Is it this variant?"
    raise ValueError(
        f"{source} does not fit {model.name}. Missing: {_shorten(missing)}. Unused: {_shorten(unused)}. {mend}"
    )


def _check_type(pair, array, model, source):
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise ValueError(f"{source} does not fit {model.name}: {pair.key} has numbers of type {array.dtype}.")


def _check_shape(pair, array, changes, model, source):
    shape = tuple(array.shape)
    if shape == pair.shape or pair.key in changes:
        return
    mend = "Is it this variant?"
    if pair.layer == "predictions" and len(shape) == len(pair.shape):
        classes = shape[pair.axes.index(len(shape) - 1)]
        mend = f"Build the model with classes={classes}, or with include_top=False to take the rest."
    raise ValueError(
        f"{source} does not fit {model.name}: {pair.key} is {list(pair.shape)}, the file has {list(shape)}. {mend}"
    )


def _shorten(names, most=8):
    return names if len(names) <= most else f"[{', '.join(map(repr, names[:most]))} and {len(names) - most} more]"
