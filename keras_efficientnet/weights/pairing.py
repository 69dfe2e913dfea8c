"""Pairs each variable of a network with the name and the layout that another program has for it."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

ENDS = ("stem_conv", "stem_bn", "top_conv", "top_bn", "predictions")  # layers with weights outside the blocks


class Origin(NamedTuple):
    """A program that writes EfficientNet weights: tables from our names and layouts to its own."""

    name: str
    sign: str  # pattern of a name, without prefixes, that only this program's files have
    ends: Mapping[str, str]  # layers outside the blocks
    block: str  # prefix of a block's layers; may contain {name} ("block2a"), {stage}, {above}, {repeat} and {index}
    pieces: Mapping[str, Mapping[str, str]]  # layers of a block, by its kind: plain, widening, fused, conditional
    leaves: Mapping[str, str]  # variables, by name or by class/name
    separator: str = "/"  # between a layer and its variable
    axes: Mapping[str, tuple[int, ...]] = {}  # transposition of a kernel from ours, by class; absent: none
    flattens: bool = False  # the kernels of experts are [experts, everything else]
    extras: str = r"(?!)"  # pattern of names without a counterpart
    rename: Callable[[Iterable[str]], dict[str, str]] | None = None  # names in a file -> {name in the tables: name}
    graph: tuple[str, float] | None = None  # padding and epsilon that the weights were trained with; None: any
    graphs: Mapping[tuple[int, int], tuple[tuple[str, float], ...]] = {}  # exceptions, by blocks and stem filters
    adapts: bool = True  # its weights also load with other channels or classes, with a warning

    def owns(self, name: str) -> bool:
        """Returns whether a name is that of a variable of an EfficientNet, of this or of another size."""
        block = self.block.format(name=r"block\d+[a-z]+", stage=r"\d+", above=r"\d+", repeat=r"\d+", index=r"\d+")
        return bool(re.match(block, name)) or name.rpartition(self.separator)[0] in self.ends.values()


class Pair(NamedTuple):
    """A variable of the network, and its name and layout in the origin."""

    variable: keras.Variable
    layer: str
    leaf: str  # name of the variable in its layer
    key: str  # name in the origin
    axes: tuple[int, ...]  # transposition to the origin's layout
    flat: bool  # the origin flattens all axes but the first

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Returns the shape in the origin before flattening."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape in the origin."""
        shape = self.full_shape
        return (shape[0], math.prod(shape[1:])) if self.flat else shape

    def to_ours(self, array: Any) -> np.ndarray:
        """Converts an array of the origin to our layout."""
        array = np.asarray(array)
        return (array.reshape(self.full_shape) if self.flat else array).transpose(np.argsort(self.axes))

    def to_theirs(self) -> np.ndarray:
        """Returns the variable's value in the layout of the origin."""
        array = np.asarray(keras.ops.convert_to_numpy(self.variable)).transpose(self.axes)
        return np.ascontiguousarray(array.reshape(self.shape))


def find_network(names: Iterable[str], origin: Origin) -> tuple[dict[str, str], list[str]]:
    """Finds the network among the names in a file.

    Wrappers ("module.", "_orig_mod.", "model.") and outer models put a prefix before all names of the network. The
    prefix is what comes before the name of the stem's kernel.

    Returns:
        The network's keys in the file, by their names in the origin's tables; and the other keys.

    Raises:
        ValueError: there are several networks.
    """
    names = list(names)
    stem = f"{origin.ends['stem_conv']}{origin.separator}{origin.leaves['kernel']}"
    stems = [name for name in names if name == stem or name.endswith((f".{stem}", f"/{stem}"))]
    if len(stems) > 1:
        raise ValueError(f"The file holds several networks: {stems[0]} and {stems[1]}. Save one of them alone.")
    prefix = stems[0].removesuffix(stem) if stems else ""
    keys = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    others = [name for name in names if not name.startswith(prefix)]
    return {ours: keys[theirs] for ours, theirs in origin.rename(keys).items()} if origin.rename else keys, others


def pair_variables(model: keras.Model, origin: Origin) -> Iterator[Pair]:
    """Yields a pair for every variable of the network. Skips layers before and after it, which have other names.

    Raises:
        ValueError: the model contains no EfficientNet, or a layer that the origin does not have.
    """
    layers = network_layers(model)
    present = {layer.name for layer in layers}
    blocks = list(dict.fromkeys(layer.name.partition("_")[0] for layer in layers if layer.name not in ENDS))
    for layer in layers:
        prefix = _layer_name(layer.name, present, blocks, origin)
        kind = type(layer).__name__
        for variable in layer.weights:
            leaf = variable.name.split("/")[-1]
            their_leaf = origin.leaves.get(f"{kind}/{leaf}", origin.leaves.get(leaf))
            if prefix is None or their_leaf is None:
                raise ValueError(
                    f"{model.name} has {layer.name}/{leaf}, which is not part of an EfficientNet of {origin.name}."
                )
            rank = len(variable.shape)
            yield Pair(
                variable=variable,
                layer=layer.name,
                leaf=leaf,
                key=f"{prefix}{origin.separator}{their_leaf}",
                axes=origin.axes.get(kind, tuple(range(rank))) if rank > 1 else tuple(range(rank)),
                flat=origin.flattens and rank == 5,
            )


def network_layers(model: keras.Model) -> list[keras.Layer]:
    """Returns the layers with weights that belong to an EfficientNet, by their names.

    Raises:
        ValueError: there are none.
    """
    layers = [x for x in model.layers if x.weights and (x.name in ENDS or re.match(r"block\d+[a-z]_", x.name))]
    if not layers:
        inner = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = f" Pass {model.name}.get_layer({inner[0]!r})." if inner else ""
        raise ValueError(f"{model.name} has no layer of an EfficientNet of this package.{hint}")
    return layers


def _layer_name(name, present, blocks, origin):
    """Returns the origin's name for a layer, or None if it has none.

    Args:
        name: our name of the layer.
        present: names of all layers with weights in the network.
        blocks: names of the blocks in order.
        origin: table of names.
    """
    if name in ENDS:
        return origin.ends[name]
    match = re.fullmatch(r"(block(\d+)([a-z]))_(\w+)", name)
    if not match:
        return None
    block, stage, repeat, piece = match.groups()
    if f"{block}_dwconv" not in present:
        kind = "fused"
    elif f"{block}_routing" in present:
        kind = "conditional"
    else:
        kind = "widening" if f"{block}_expand_conv" in present else "plain"
    table = origin.pieces.get(kind, {})
    number, index = int(stage), blocks.index(block)
    prefix = origin.block.format(name=block, stage=number - 1, above=number, repeat=ord(repeat) - 97, index=index)
    return f"{prefix}{table[piece]}" if piece in table else None
