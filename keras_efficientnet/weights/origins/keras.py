"""Names of Keras programs: this package, keras.applications, keras-hub; and the way back to keras.applications.

This package and keras.applications have the same layer names. Sources: keras/src/applications/efficientnet.py;
keras_hub/src/models/efficientnet/efficientnet_backbone.py, whose networks are timm's with PyTorch's padding.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_efficientnet.files import replacing
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.pairing import ENDS, Origin, network_layers

PLAIN = ("dwconv", "bn", "se_reduce", "se_expand", "project_conv", "project_bn")
WIDENING = ("expand_conv", "expand_bn", *PLAIN)
KERAS: dict[str, Any] = {
    "ends": {name: name for name in ENDS},
    "block": "{name}_",
    "leaves": {leaf: leaf for leaf in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
}
OURS = Origin(
    name="ours",
    sign=r"stem_conv/kernel",
    pieces={
        "plain": {piece: piece for piece in PLAIN},
        "widening": {piece: piece for piece in WIDENING},
        "conditional": {piece: piece for piece in (*WIDENING, "routing")},
        "fused": {piece: piece for piece in WIDENING if piece not in ("dwconv", "bn")},
    },
    adapts=False,
    **KERAS,
)
KERAS_APPLICATIONS = Origin(
    name="keras.applications",
    sign=r"normalization(_\d+)?/variance",
    pieces={kind: OURS.pieces[kind] for kind in ("plain", "widening")},
    extras=r"(^|/)normalization(_\d+)?/(mean|variance|count)$",
    graph=("same", 1e-3),
    **KERAS,
)
RENAMED = {"bn": "dwconv_bn", "project_conv": "project"}
KERAS_HUB = Origin(
    name="keras-hub",
    sign=r"block1a_project/kernel",
    pieces={kind: {**KERAS_APPLICATIONS.pieces[kind], **RENAMED} for kind in ("plain", "widening")},
    graph=("symmetric", 1e-5),
    **KERAS,
)

GROUPS = {  # class of a layer -> prefix of its group in a Keras 3 file, which numbers the layers of a class
    "Normalization": "normalization",
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}


def to_keras_applications(model: keras.Model, path: str | Path) -> None:
    """Writes a weights file for `keras.applications.EfficientNetB0(weights=path)`, or its `load_weights`.

    The network of keras.applications divides pixels by 255, then normalises them with statistics from the file. The
    file gets the model's own statistics, so both networks expect the same images: pixels from 0 to 255, or normalised
    pixels if the model was built with `include_preprocessing=False`.

    Args:
        model: B0 to B7 of this package, with or without its top.
        path: path of the new file, `.weights.h5` (Keras 3) or `.h5` (Keras 2).

    Raises:
        ValueError: the path has another ending, or keras.applications has no such network.

    Example:
        >>> import keras
        >>> from keras_efficientnet import EfficientNetB0
        >>> from keras_efficientnet.weights.registry import to_keras_applications
        >>> to_keras_applications(EfficientNetB0(classes=10), "b0.weights.h5")
        >>> keras.applications.EfficientNetB0(weights=None, classes=10).load_weights("b0.weights.h5")
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(f"`path` must end in .weights.h5 or .h5. Received: {str(path)!r}")
    _check_network(model)
    write = _write_keras_3 if path.name.endswith(".weights.h5") else _write_keras_2
    with replacing(path, overwrite=True, is_ours=Path.is_file) as new, h5py.File(new, "w") as h5:
        write(h5, model)


def _check_network(model):
    names = {layer.name for layer in model.layers}
    norms = [layer for layer in network_layers(model) if layer.name.endswith("bn")]
    squeezed = all(f"{name.removesuffix('project_conv')}se_reduce" in names for name in names if "project_conv" in name)
    if "stem_conv_pad" in names or not squeezed or any(layer.epsilon != 1e-3 for layer in norms):
        raise ValueError(f"keras.applications has no network like {model.name}: it has the original B0 to B7.")
    next(extract(model, KERAS_APPLICATIONS))


def _layers(model) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Yields name, class and arrays of each layer with weights, in the order of keras.applications."""
    yield "normalization", "Normalization", _normalization(model)
    classes = {layer.name: type(layer).__name__ for layer in network_layers(model)}
    name = ""
    arrays: dict[str, np.ndarray] = {}
    for pair, array in extract(model, KERAS_APPLICATIONS):
        if name and pair.layer != name:
            yield name, classes[name], arrays
            arrays = {}
        name = pair.layer
        arrays[pair.leaf] = array
    yield name, classes[name], arrays


def _normalization(model):
    """Returns the variables of a Normalization layer that does to pixels / 255 what our layer does to pixels."""
    own = next((layer for layer in model.layers if layer.name == "normalization"), None)
    channels = next(layer.kernel.shape[2] for layer in model.layers if layer.name == "stem_conv")
    scale = np.broadcast_to(own.scale if own else 1.0, channels).astype("float64")
    offset = np.broadcast_to(own.offset if own else 0.0, channels).astype("float64")
    mean, deviation = -offset / scale / 255, 1 / (255 * scale)
    return {
        "mean": mean.astype("float32"),
        "variance": np.square(deviation).astype("float32"),
        "count": np.array(0, "int32"),
    }


def _write_keras_3(h5, model):
    numbers: dict[str, int] = {}
    for name, kind, arrays in _layers(model):
        number = numbers[kind] = numbers.get(kind, -1) + 1
        group = h5.create_group(f"layers/{GROUPS[kind]}{f'_{number}' if number else ''}/vars")
        group.attrs["name"] = name
        for index, array in enumerate(arrays.values()):
            group[str(index)] = array


def _write_keras_2(h5, model):
    names = []
    for name, kind, arrays in _layers(model):
        names.append(name)
        leaves = {"kernel": "depthwise_kernel"} if kind == "DepthwiseConv2D" else {}
        weights = {f"{name}/{leaves.get(leaf, leaf)}:0": array for leaf, array in arrays.items()}
        group = h5.create_group(name)
        group.attrs["weight_names"] = [weight.encode("utf-8") for weight in weights]
        for weight, array in weights.items():
            group[weight] = array
    h5.attrs.update(
        layer_names=[name.encode("utf-8") for name in names], backend=b"tensorflow", keras_version=b"2.15.0"
    )
