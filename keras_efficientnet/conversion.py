"""timm's names of weights <-> ours: two small tables, and one engine both ways round.

Source: github.com/huggingface/pytorch-image-models, timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

ENDS = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "top_conv": "conv_head",
    "top_bn": "bn2",
    "predictions": "classifier",
}
ANYWHERE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "routing": "routing_fn"}
# ours -> timm's, in blocks that do not widen, that do, and that widen as they filter
PLAIN = {"dwconv": "conv_dw", "bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"} | ANYWHERE
WIDENING = {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "dwconv": "conv_dw",
    "bn": "bn2",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
} | ANYWHERE
FUSED = {"expand_conv": "conv_exp", "expand_bn": "bn1", "project_conv": "conv_pwl", "project_bn": "bn2"} | ANYWHERE

LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
AXES = {  # of a kernel: PyTorch's from ours; the experts' five axes are flattened there to two
    "Conv2D": (3, 2, 0, 1),
    "DepthwiseConv2D": (2, 3, 0, 1),
    "Dense": (1, 0),
    "CondConv2D": (0, 4, 3, 1, 2),
    "DepthwiseCondConv2D": (0, 3, 4, 1, 2),
}
COUNTER = "num_batches_tracked"  # of a batch norm in PyTorch; has no counterpart


class Pair(NamedTuple):
    """A variable of ours and what it is there."""

    variable: keras.Variable
    key: str
    axes: tuple[int, ...]

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape there, before the experts are flattened."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.full_shape
        return (shape[0], math.prod(shape[1:])) if len(shape) == 5 else shape


def from_timm(model: keras.Model, arrays: Mapping[str, Any], source: str = "the arrays") -> None:
    """Fills a model with timm's weights: every variable once, every array used, every shape right, or nothing at all.

    A model for other images than RGB takes the stem's kernels summed over RGB (one channel), or repeated and scaled
    (more), as timm does. A model with another number of classes keeps its own classifier. Either gives a `UserWarning`.

    Args:
        model: built by this package, with or without its top.
        arrays: timm's `state_dict` as arrays of numpy.
        source: what to call them in an error.

    Raises:
        ValueError: names or shapes do not fit; the message lists what is missing and unused.
    """
    pairs = list(pair_variables(model))
    wanted, present = {pair.key for pair in pairs}, {layer.name for layer in model.layers}
    absent = {there for ours, there in ENDS.items() if ours not in present and ours != "stem_conv"}
    extras = {key for key in arrays if key.endswith(COUNTER) or key.rpartition(".")[0] in absent}
    missing, unused = sorted(wanted - set(arrays)), sorted(set(arrays) - wanted - extras)
    if missing or unused:
        raise ValueError(
            f"{source} does not fit {model.name}. Missing: {_shorten(missing)}. Unused: {_shorten(unused)}. "
            "Is it this variant?"
        )
    pairs, messages = _leave_other_classes(pairs, arrays, model, source)
    adapted: dict[str, Any] = {}
    for pair in pairs:
        adapted[pair.key], message = _adapt(pair, arrays[pair.key], model, source)
        messages += [message] if message else []
    for pair in pairs:
        theirs: np.ndarray = np.reshape(adapted[pair.key], pair.full_shape)
        pair.variable.assign(theirs.transpose(np.argsort(pair.axes)).astype(pair.variable.dtype))
    for message in messages:
        warnings.warn(message, stacklevel=2)


def to_timm(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's weights under timm's names and in its layout: what `load_state_dict` takes there."""
    arrays: dict[str, np.ndarray] = {}
    for pair in pair_variables(model):
        array = np.asarray(keras.ops.convert_to_numpy(pair.variable)).transpose(pair.axes)
        arrays[pair.key] = np.ascontiguousarray(array.reshape(pair.shape))
        if pair.key.endswith("running_var"):
            arrays[pair.key.replace("running_var", COUNTER)] = np.array(0, "int64")
    return arrays


def pair_variables(model: keras.Model) -> Iterator[Pair]:
    """Every variable of the network with its name in timm; layers of other names, before or after it, are left out.

    Raises:
        ValueError: there is no EfficientNet in the model, or it has a layer that none has.
    """
    layers = network_layers(model)
    kinds = {layer.name for layer in layers}
    for layer in layers:
        there = _name(layer.name, kinds)
        for variable in layer.weights:
            leaf = variable.name.split("/")[-1]
            one_axis = len(variable.shape) == 1
            if there is None or leaf not in LEAVES or not (one_axis or type(layer).__name__ in AXES):
                raise ValueError(f"{model.name} has {layer.name}/{leaf}, which is no part of an EfficientNet.")
            axes = (0,) if one_axis else AXES[type(layer).__name__]
            yield Pair(variable, f"{there}.{LEAVES[leaf]}", axes)


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


def _name(name, kinds):
    """The name in timm of the layer `name`, in a model whose layers with weights are `kinds`."""
    if name in ENDS:
        return ENDS[name]
    place = re.fullmatch(r"(block(\d+)([a-z]))_(\w+)", name)
    if not place:
        return None
    block, stage, repeat, piece = place.groups()
    table = FUSED if f"{block}_dwconv" not in kinds else WIDENING if f"{block}_expand_conv" in kinds else PLAIN
    return f"blocks.{int(stage) - 1}.{ord(repeat) - ord('a')}.{table[piece]}" if piece in table else None


def _leave_other_classes(pairs, arrays, model, source):
    """The pairs without the classifier, and a message, if the file's is for another number of classes."""
    classifier = [pair for pair in pairs if pair.key.startswith(f"{ENDS['predictions']}.")]
    counts = {tuple(arrays[pair.key].shape)[:1] for pair in classifier}
    fits = all(tuple(arrays[pair.key].shape)[1:] == pair.shape[1:] for pair in classifier)
    if not classifier or len(counts) > 1 or not fits or counts == {classifier[0].shape[:1]}:
        return pairs, []
    message = (
        f"{source} is for {next(iter(counts))[0]} classes, {model.name} for {classifier[0].shape[0]}: its classifier "
        "stays as it was. Train it."
    )
    return pairs[: -len(classifier)], [message]  # they are the last


def _adapt(pair, array, model, source):
    """The array to take for a variable, and a message if it is not the one that came."""
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise ValueError(f"{source} does not fit {model.name}: {pair.key} has numbers of type {array.dtype}.")
    shape = tuple(array.shape)
    if shape == pair.shape:
        return array, None
    if pair.key.startswith(ENDS["stem_conv"]) and shape == (pair.shape[0], 3, *pair.shape[2:]):
        channels = pair.shape[1]
        message = f"{source} is for RGB, {model.name} for images of {channels} channels: the stem is adapted."
        array = np.asarray(array, "float32")
        if channels == 1:
            return array.sum(axis=1, keepdims=True), message
        return array[:, np.arange(channels) % 3] * (3 / channels), message
    raise ValueError(
        f"{source} does not fit {model.name}: {pair.key} is {list(pair.shape)}, the file has {list(shape)}. "
        "Is it this variant?"
    )


def _shorten(names, most=8):
    return names if len(names) <= most else f"[{', '.join(map(repr, names[:most]))} and {len(names) - most} more]"
