"""Ours -> a file that keras.applications takes: `.weights.h5` of Keras 3, or `.h5` as Keras 2 wrote it."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_efficientnet.weights.engine import extract, network_layers
from keras_efficientnet.weights.origins.keras import KERAS_APPLICATIONS

CLASSES = {  # of its layers -> what a file of Keras 3 calls the groups of one class, which it numbers
    "Normalization": "normalization",
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}


def to_keras_applications(model: keras.Model, path: str | Path) -> None:
    """Writes a file for `keras.applications.EfficientNetB0(weights=path)`, or its `load_weights`.

    That network divides pixels by 255 and normalises them by what the file says: here by what the model does itself,
    so that both take the same images. With `include_preprocessing=False` neither does more than its weights.

    Args:
        model: B0 to B7 of this package, with or without its top.
        path: of a new file, `.weights.h5` or `.h5`.

    Raises:
        ValueError: the path is of neither kind, or keras.applications has no such network.
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(f"`path` must end in .weights.h5 or .h5. Received: {str(path)!r}")
    _check_network(model)
    write = _write_keras_3 if path.name.endswith(".weights.h5") else _write_keras_2
    temporary = path.with_name(f".{path.name}")
    try:
        with h5py.File(temporary, "w") as h5:
            write(h5, model)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_network(model):
    names = {layer.name for layer in model.layers}
    norms = [layer for layer in network_layers(model) if layer.name.endswith("bn")]
    squeezed = all(f"{name.removesuffix('project_conv')}se_reduce" in names for name in names if "project_conv" in name)
    if "stem_conv_pad" in names or not squeezed or any(layer.epsilon != 1e-3 for layer in norms):
        raise ValueError(f"keras.applications has no network as {model.name}: it has the original B0 to B7.")
    next(extract(model, KERAS_APPLICATIONS))


def _layers(model) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """Name, class and arrays of each layer with weights, in keras.applications' order, one at a time."""
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
    """What its layer must know, of pixels divided by 255, to do what ours does with pixels."""
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
        group = h5.create_group(f"layers/{CLASSES[kind]}{f'_{number}' if number else ''}/vars")
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
