"""Files of weights -> a model, by the names of its layers: all of it or nothing."""

import io
import pathlib
import warnings
import zipfile

import h5py
import keras
import numpy as np

from keras_efficientnet.conversion import from_timm, network_layers
from keras_efficientnet.readers import read_pth, read_safetensors

WEIGHTS_IN_KERAS_FILE = "model.weights.h5"
OTHERS = {".safetensors": read_safetensors, ".pth": read_pth, ".pt": read_pth, ".bin": read_pth, ".tar": read_pth}


def load_weights(model: keras.Model, source: str, *, other_classes: bool = False) -> None:
    """Fills a model from a file. A file that does not fit leaves the model as it was. Nothing in a file is run.

    Args:
        model: built by this package.
        source: path of a `.weights.h5` or `.keras` file written by Keras from a model of this package; or of timm's
            weights, `.safetensors`, `.pth` or `.bin`, which also fit other channels and classes: see `from_timm`.
        other_classes: whether a file of Keras with another number of classes may leave the model's classifier as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or does not fit the model; the message names what is missing or differs.
    """
    path = pathlib.Path(source)
    if not path.exists():
        raise FileNotFoundError(
            "`weights` must be None or the path of a .weights.h5, .keras, .safetensors or .pth file. "
            f"There is no file {str(source)!r}."
        )
    if path.suffix in OTHERS:
        return from_timm(model, OTHERS[path.suffix](path), source=str(path))
    arrays = read_weights(path)
    wanted = {layer.name: layer for layer in network_layers(model)}
    if "predictions" not in wanted:
        arrays.pop("predictions", None)  # a network without its top takes the rest of a whole one
    if other_classes and _differ_in_classes(arrays, wanted):
        warnings.warn(f"{path} has other classes than {model.name}, whose classifier stays as it is.", stacklevel=2)
        del arrays["predictions"], wanted["predictions"]
    _check_fit(path, model, arrays, wanted)
    for name, layer in wanted.items():
        layer.set_weights(arrays[name])


def _differ_in_classes(arrays, wanted):
    if "predictions" not in arrays or "predictions" not in wanted:
        return False
    kernel, own = arrays["predictions"][0], wanted["predictions"].kernel
    return kernel.shape[0] == own.shape[0] and kernel.shape[1] != own.shape[1]


def read_weights(path: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """The arrays of a `.weights.h5` or `.keras` file by the name of the layer, in Keras's order.

    Raises:
        ValueError: the file is neither.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _read_h5(io.BytesIO(archive.read(WEIGHTS_IN_KERAS_FILE)))
        return _read_h5(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole .weights.h5 or .keras file of Keras 3: {error}") from error


def _read_h5(file) -> dict[str, list[np.ndarray]]:
    with h5py.File(file, "r") as h5:
        groups = [layer["vars"] for layer in h5["layers"].values() if len(layer.get("vars", ()))]
        return {group.attrs["name"]: [group[str(index)][()] for index in range(len(group))] for group in groups}


def _check_fit(path, model, arrays, wanted):
    missing = sorted(set(wanted) - set(arrays))
    unused = sorted(set(arrays) - set(wanted))
    if missing or unused:
        raise ValueError(f"{path} does not fit {model.name}. Missing: {missing}. Unused: {unused}. Is it this variant?")
    for name, layer in wanted.items():
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = [tuple(array.shape) for array in arrays[name]]
        if shapes != expected:
            mend = "Is it this variant?"
            if name == "predictions":
                mend = f"Build the model with classes={shapes[-1][-1]}, or with include_top=False to take the rest."
            raise ValueError(f"{path} does not fit {model.name}: {name} is {expected}, the file has {shapes}. {mend}")
