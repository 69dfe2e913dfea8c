"""Reads PyTorch's `.pth` files without PyTorch, and without running anything in them."""

import contextlib
import functools
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from keras_efficientnet.weights.readers.lazy_array import LazyArray, report_damage
from keras_efficientnet.weights.readers.pickles import PickleReader, is_small_integer

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file from before PyTorch 1.6, which is not a zip archive
MAX_LEGACY_PICKLES = 2**26  # bytes; those of EfficientNet-L2 take less than one
MAX_AXES = 64  # of an array of NumPy
TYPES = {  # PyTorch's storage classes
    "DoubleStorage": np.dtype("float64"),
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
}
AVERAGED, TRAINED = ("state_dict_ema", "model_ema"), ("state_dict", "model")  # keys of training programs for weights
KIND = "a complete .pth file of tensors"


class Storage(NamedTuple):
    """A block of numbers in the file, which one or more tensors share."""

    dtype: np.dtype
    key: str


class Tensor(NamedTuple):
    storage: Storage
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Content(NamedTuple):
    """A size in bytes, and a function that reads as many."""

    size: int
    read: Callable[[], bytes]


@contextlib.contextmanager
def open_pth(path: Path, *, average: bool = True) -> Iterator[dict[str, LazyArray]]:
    """Opens the arrays of a `.pth` file, as written by PyTorch's `torch.save(model.state_dict(), path)`.

    The file of a training program holds more: its averaged weights are opened, else its trained weights.

    Args:
        path: path of the file.
        average: whether to prefer averaged weights to trained weights.

    Raises:
        ValueError: the file is damaged or of another kind, or asks for anything but tensors. Nothing in it is run.
    """
    with contextlib.ExitStack() as stack:
        with report_damage(path, KIND):
            file = stack.enter_context(open(path, "rb"))
            content, storages = _read_zip(file) if zipfile.is_zipfile(path) else _read_legacy(file)
            tensors = _select_tensors(content, (*AVERAGED, *TRAINED) if average else TRAINED)
            read_storage = functools.lru_cache(1)(lambda key: storages[key].read())  # several tensors may share one
            for tensor in tensors.values():
                _check_bounds(tensor, storages[tensor.storage.key].size)

        def make_array(tensor):
            def read():
                with report_damage(path, KIND):
                    return _view(tensor, read_storage(tensor.storage.key))

            return LazyArray(tensor.shape, tensor.storage.dtype, read)

        yield {name: make_array(tensor) for name, tensor in tensors.items()}


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("it has a tensor without numbers")
    if not all(type(axes) is tuple and len(axes) <= MAX_AXES for axes in (shape, strides)):
        raise pickle.UnpicklingError("it has a tensor with an invalid shape")
    if not all(map(is_small_integer, (offset, *shape, *strides))):
        raise pickle.UnpicklingError("a tensor reaches beyond its numbers")
    return Tensor(storage, offset, shape, strides)


FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): lambda *_: {},
    ("argparse", "Namespace"): lambda *_: {},  # the options of a training program
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
} | {("torch", name): name for name in TYPES}


def _read_pickle(stream):
    """Returns the object in a pickle, and the storages that it refers to by their keys."""
    storages: dict[str, Storage] = {}

    def load_storage(identifier):
        if type(identifier) is not tuple or len(identifier) not in (5, 6):
            raise pickle.UnpicklingError("it refers to an object that is not a storage of numbers")
        kind, dtype, key, _, elements, *view = identifier
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("it has a view of another storage, as written before PyTorch 0.4")
        if not (kind == "storage" and isinstance(dtype, str) and dtype in TYPES and isinstance(elements, int)):
            raise pickle.UnpicklingError("it refers to a storage of an unknown type")
        storage = Storage(TYPES[dtype], str(key) if isinstance(key, (str, int)) else "")
        return storages.setdefault(storage.key, storage)

    return PickleReader(FUNCTIONS, load_storage).read(stream), storages


def _read_zip(file):
    """Returns the object in the archive's pickle, and the content of each storage that it refers to."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which PyTorch never does")
    pickled = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if pickled is None:
        raise ValueError("it has no data.pkl")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are not little-endian")
    content, storages = _read_pickle(io.BytesIO(archive.read(pickled)))
    contents = {}
    for key in storages:
        entry = archive.getinfo(f"{folder}data/{key}")
        contents[key] = Content(entry.file_size, functools.partial(archive.read, entry))
    return content, contents


def _read_legacy(file):
    """As `_read_zip`, of a file from before PyTorch 1.6: pickles, then the storages."""
    stream = io.BytesIO(file.read(MAX_LEGACY_PICKLES))
    magic, _, _ = (_read_pickle(stream)[0] for _ in range(3))
    if magic != LEGACY_MAGIC:
        raise ValueError("it does not begin as one")
    content, storages = _read_pickle(stream)
    keys, _ = _read_pickle(stream)
    start, end = stream.tell(), file.seek(0, io.SEEK_END)
    contents = {}
    for key in keys:
        (elements,) = struct.unpack("<q", _read_at(file, start, 8))
        size = max(0, elements) * storages[key].dtype.itemsize
        contents[key] = Content(size, functools.partial(_read_at, file, start + 8, size))
        start += 8 + size
        if start > end:
            raise EOFError("it ends too early")
    return content, contents


def _read_at(file, start, size):
    file.seek(start)
    return file.read(size)


def _select_tensors(content, keys) -> dict[str, Tensor]:
    """Returns the tensors in the first of `keys` that holds a dictionary, else in the only one of tensors."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of a dictionary of tensors")
    groups = [value for value in content.values() if isinstance(value, dict) and any(map(_is_tensor, value.values()))]
    known = (content[key] for key in keys if isinstance(content.get(key), dict))
    content = next(known, groups[0] if len(groups) == 1 else content)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(content):
        others = len(content) - len(tensors)
        raise ValueError(f"it holds {others} objects that are not tensors, and {len(tensors)} tensors")
    return {str(name): value for name, value in tensors.items()}


def _is_tensor(value):
    return isinstance(value, Tensor)


def _check_bounds(tensor, size):
    """Raises ValueError if the shape and strides that the file states reach beyond the `size` bytes of the storage."""
    elements = size // tensor.storage.dtype.itemsize
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    lowest = min((*tensor.shape, *tensor.strides, tensor.offset, 0))
    if lowest < 0 or (math.prod(tensor.shape) and tensor.offset + last >= elements):
        raise ValueError("a tensor reaches beyond its numbers")


def _view(tensor, content):
    _check_bounds(tensor, len(content))
    elements = np.frombuffer(content, tensor.storage.dtype)
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)
