"""Reads HDF5 weights files of Keras 3, Keras 2 and keras-hub: arrays by `layer/variable`."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from keras_efficientnet.weights.readers.lazy_array import LazyArray, report_damage

WEIGHTS_IN_KERAS_FILE = "model.weights.h5"
KERAS_HUB = ("model.weights.h5", "task.weights.h5")  # the backbone; its classifier, if it has one
KIND = "a complete .weights.h5 or .keras file of Keras 3, nor an .h5 file of Keras 2"
CONFIG_IN_KERAS_FILE = "config.json"
MAX_UNPACKED = 20  # times its size in the file. Keras does not compress; compression saves about a tenth of weights
MAX_SMALL = 2**22  # bytes that anything may unpack to: a configuration is text, which compresses well
LEAVES = {  # names of a layer's variables by their number: Keras 3 writes only indices
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("mean", "variance", "count"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


@contextlib.contextmanager
def open_h5(path: Path) -> Iterator[dict[str, LazyArray]]:
    """Opens the arrays of a `.weights.h5`, `.keras` or `.h5` file.

    Raises:
        ValueError: the file is damaged or of another kind.
    """
    with contextlib.ExitStack() as stack:
        with report_damage(path, KIND):
            file = stack.enter_context(_unpack(path)) if zipfile.is_zipfile(path) else path
            arrays = _read(stack.enter_context(h5py.File(file, "r")), path)
        yield arrays


def check_model_file(path: Path) -> None:
    """Checks a `.keras` or `.h5` file with a model before Keras reads it.

    Raises:
        ValueError: the file is cut off or of another kind, would take far more memory than its size, or has parts in
            other files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in (CONFIG_IN_KERAS_FILE, WEIGHTS_IN_KERAS_FILE):
                if name not in archive.namelist():
                    raise ValueError(f"it has no {name}")
        with _unpack(path) as file, h5py.File(file, "r") as h5:
            _check_groups(h5, set())
    elif h5py.is_hdf5(path):
        with h5py.File(path, "r") as h5:
            if "model_config" not in h5.attrs:
                raise ValueError("it holds weights alone: build their network and call load_weights")
            _check_groups(h5, set())
    elif not path.stat().st_size:
        raise ValueError("it is empty")
    else:
        raise ValueError("it is cut off, or neither a zip archive nor HDF5")


def _check_groups(group, seen):
    """Checks everything in a group: Keras reads arrays before it compares their shapes."""
    _check_new(group, seen)
    for key in group:
        entry = _open(group, key)
        if isinstance(entry, h5py.Group):
            _check_groups(entry, seen)
        else:
            _check_size(entry.name, entry.nbytes, entry.id.get_storage_size())


@contextlib.contextmanager
def open_preset(folder: Path) -> Iterator[dict[str, LazyArray]]:
    """Opens the arrays of a folder written by keras-hub's `save_to_preset`; raises like `open_h5`."""
    with contextlib.ExitStack() as stack:
        arrays: dict[str, LazyArray] = {}
        for name in KERAS_HUB:
            if (folder / name).is_file():
                arrays |= stack.enter_context(open_h5(folder / name))
        yield arrays


@contextlib.contextmanager
def _unpack(path):
    """Unpacks the weights of a `.keras` file to a temporary file; zipfile checks their checksum."""
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                what = "weights" if entry.filename == WEIGHTS_IN_KERAS_FILE else entry.filename
                _check_size(what, entry.file_size, entry.compress_size)
            with archive.open(WEIGHTS_IN_KERAS_FILE) as source:
                shutil.copyfileobj(source, file, 2**20)
        yield file


def _check_size(what, size, stored):
    """Raises ValueError for data that compression or a fill value makes far smaller in the file than in memory."""
    if size > max(MAX_SMALL, MAX_UNPACKED * stored):
        raise ValueError(f"its {what} would unpack to over {MAX_UNPACKED} times its size")


def _check_new(group, seen):
    """Raises ValueError for a group that was visited before: groups in each other have paths without end."""
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise ValueError(f"{group.name} in it is also another group, which Keras never writes")
    seen.add(address)


def _read(h5, path):
    root = _open(h5, "model_weights") if _has(h5, "model_weights") else h5  # in an .h5 file with a model
    arrays: dict[str, LazyArray] = {}
    for name, dataset in _variables_of_keras_2(root) if "layer_names" in root.attrs else _variables_of_keras_3(h5):
        if name in arrays:
            raise ValueError(f"it has {name} twice")
        arrays[name] = _make_array(dataset, path)
    if not arrays:
        raise ValueError("it has no layers with weights")
    return arrays


def _variables_of_keras_3(h5):
    """Yields "layer/variable" and its dataset; "model/layer/variable" in a model inside the model."""
    seen: set[int] = set()
    for key in h5:
        if key not in ("vars", "optimizer"):
            yield from _variables_in(_open(h5, key), "", seen)


def _variables_in(group, prefix, seen):
    """Yields the variables of a layer and of the layers in it, or of the layers in a list. Visits no group twice."""
    _check_new(group, seen)
    if _has(group, "vars"):
        variables = _open(group, "vars")
        if len(variables) and "name" not in variables.attrs:
            raise ValueError("its layers have no names, as before Keras 3.6. Load it with Keras and save it again")
        prefix += f"{_text(variables.attrs.get('name', ''))}/"
        for index, leaf in enumerate(LEAVES.get(len(variables), range(len(variables)))):
            yield f"{prefix}{leaf}", _open(variables, str(index))
    for key in group:
        if key != "vars":
            yield from _variables_in(_open(group, key), prefix, seen)


def _variables_of_keras_2(root):
    """Yields as `_variables_of_keras_3`. A model inside the model has one group, whose variables name their layers."""
    for layer in map(_text, root.attrs["layer_names"]):
        group = _open(root, layer)
        names = [_text(name) for name in group.attrs["weight_names"]]
        layers = {name.rpartition("/")[0] for name in names}
        for name in names:
            inner, _, leaf = name.partition(":")[0].replace("depthwise_kernel", "kernel").rpartition("/")
            prefix = layer if len(layers) == 1 else f"{layer}/{inner.rpartition('/')[2]}"
            yield f"{prefix}/{leaf}", _open(group, name)


def _open(group, path):
    """Returns the object at a path. Refuses links and external arrays, which HDF5 would follow into other files."""
    for name in path.split("/"):
        if not _has(group, name):
            raise ValueError(f"it has no {path}")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{path} in it is a link, which Keras never writes")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise ValueError(f"{path} in it has its numbers in another file, which Keras never writes")
    return group


def _has(group, name):
    return group.get(name, getlink=True) is not None  # `in` would follow a link


def _text(name):
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _make_array(dataset, path):
    is_bfloat16 = dataset.attrs.get("dtype") == "bfloat16"  # HDF5 lacks it: Keras writes two bytes without a type
    dtype = np.dtype(ml_dtypes.bfloat16) if is_bfloat16 and dataset.dtype.itemsize == 2 else dataset.dtype

    def read() -> np.ndarray:
        with report_damage(path, KIND):
            return np.asarray(dataset[()]).view(dtype)

    return LazyArray(dataset.shape, dtype, read)
