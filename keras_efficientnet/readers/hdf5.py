"""Files of weights of Keras 3, of Keras 2 and of keras-hub -> arrays under `layer/variable`."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from keras_efficientnet.readers.stored import Stored, in_words

WEIGHTS_IN_KERAS_FILE = "model.weights.h5"
KERAS_HUB = ("model.weights.h5", "task.weights.h5")  # the network; the classifier, where there is one
WHOLE = "a whole .weights.h5 or .keras file of Keras 3, nor an .h5 file of Keras 2"
LEAVES = {  # by how many variables a layer has: Keras 3 numbers them
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("mean", "variance", "count"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


@contextlib.contextmanager
def open_h5(path: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of a `.weights.h5`, `.keras` or `.h5` file.

    Raises:
        ValueError: it is none, or not whole.
    """
    with contextlib.ExitStack() as stack:
        with in_words(path, WHOLE):
            file = stack.enter_context(_unpack(path)) if zipfile.is_zipfile(path) else path
            arrays = _read(stack.enter_context(h5py.File(file, "r")), path)
        yield arrays


@contextlib.contextmanager
def open_preset(folder: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of a folder that keras-hub's `save_to_preset` wrote; raises as `open_h5`."""
    with contextlib.ExitStack() as stack:
        arrays: dict[str, Stored] = {}
        for name in KERAS_HUB:
            if (folder / name).is_file():
                arrays |= stack.enter_context(open_h5(folder / name))
        yield arrays


@contextlib.contextmanager
def _unpack(path):
    """The weights of a `.keras` file, which their checksum has been held to, in a file that is not in memory."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS_IN_KERAS_FILE) as packed:
            shutil.copyfileobj(packed, file, 2**20)
        yield file


def _read(h5, path):
    root = h5.get("model_weights", h5)  # in an .h5 file of a whole model
    layers = _layers_of_keras_2(root) if "layer_names" in root.attrs else _layers_of_keras_3(h5)
    arrays = {}
    for layer, variables in layers:
        for leaf, dataset in variables.items():
            if f"{layer}/{leaf}" in arrays:
                raise ValueError(f"it has {layer}/{leaf} twice")
            arrays[f"{layer}/{leaf}"] = _store(dataset, path)
    return arrays


def _layers_of_keras_3(h5):
    for group in h5["layers"].values():
        variables = group.get("vars", ())
        if not len(variables):
            continue
        if "name" not in variables.attrs:
            raise ValueError("its layers have no names, as before Keras 3.6. Load it with Keras and save it again")
        leaves = LEAVES.get(len(variables), range(len(variables)))
        yield _text(variables.attrs["name"]), {leaf: variables[str(index)] for index, leaf in enumerate(leaves)}


def _layers_of_keras_2(root):
    for layer in map(_text, root.attrs["layer_names"]):
        names = [_text(name) for name in root[layer].attrs["weight_names"]]
        leaves = [name.rpartition("/")[2].partition(":")[0].replace("depthwise_kernel", "kernel") for name in names]
        yield layer, {leaf: root[layer][name] for leaf, name in zip(leaves, names, strict=True)}


def _text(name):
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _store(dataset, path):
    def read() -> np.ndarray:
        with in_words(path, WHOLE):
            return dataset[()]

    return Stored(dataset.shape, dataset.dtype, read)
