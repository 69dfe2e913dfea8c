"""Files of weights of PyTorch programs -> arrays, without running anything that stands in them."""

import collections
import io
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a .pth file from before PyTorch 1.6; that is no zip file
TYPES = {  # PyTorch's classes of storages
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
NESTED = ("state_dict_ema", "state_dict", "model_ema", "model")  # where training programs keep the weights


class Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file.

    Raises:
        ValueError: it is none, or not whole.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a whole .safetensors file: {error}") from error


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pth` file, as PyTorch's `torch.save(model.state_dict(), path)` writes it. Needs no PyTorch.

    Of a training program's file, which holds more, the averaged weights, else the trained ones. The names lose the
    "module." that training on several devices puts before them.

    Raises:
        ValueError: it is none, not whole, or asks for anything but tensors: nothing in it is run.
    """
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else open(path, "rb") as file:
            content, storages = _read_zip(file) if isinstance(file, zipfile.ZipFile) else _read_legacy(file)
        return _collect(content, storages)
    except _BROKEN as error:
        raise ValueError(f"{path} is not a whole .pth file of tensors: {error}") from error


_BROKEN = (
    *(ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, NotImplementedError),
    *(OSError, RecursionError, TypeError, UnicodeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


class _Unpickler(pickle.Unpickler):
    """Makes plain containers and `Tensor` records; any other name in the file is an error."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in TYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: Tensor(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code; nothing was run")

    def persistent_load(self, identifier):
        kind, dtype, key, _, elements, *_ = identifier
        if kind != "storage" or dtype not in TYPES:
            raise pickle.UnpicklingError(f"it refers to an unknown {kind!r}")
        return Storage(TYPES[dtype], str(key), int(elements))


def _read_zip(archive):
    """The content of the pickle, and the bytes of each storage."""
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if pickled is None:
        raise ValueError("it has no data.pkl")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers have another order of bytes")
    content = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    prefix = f"{folder}data/"
    return content, {name.removeprefix(prefix): archive.read(name) for name in names if name.startswith(prefix)}


def _read_legacy(file):
    magic, _, _, content = (_Unpickler(file).load() for _ in range(4))
    if magic != LEGACY_MAGIC:
        raise ValueError("it does not begin as one")
    widths = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in _tensors(content)}
    storages = {}
    for key in _Unpickler(file).load():
        (elements,) = struct.unpack("<q", file.read(8))
        size = elements * widths.get(key, 0)
        storages[key] = file.read(size)
        if elements < 0 or len(storages[key]) != size:
            raise EOFError("it ends too early")
    return content, storages


def _tensors(content):
    values = content.values() if isinstance(content, dict) else ()
    return [tensor for value in values for tensor in ([value] if isinstance(value, Tensor) else _tensors(value))]


def _collect(content, storages) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} in place of a dictionary of tensors")
    for key in NESTED:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors: dict[Any, Any] = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(content):
        raise ValueError(
            f"it holds {len(content) - len(tensors)} things that are no tensors, and {len(tensors)} that are"
        )
    return {str(name).removeprefix("module."): _view(value, storages) for name, value in tensors.items()}


def _view(tensor, storages):
    """The array of a tensor; its shape and strides, which come from the file, are held to the bytes that are there."""
    dtype = tensor.storage.dtype
    elements = np.frombuffer(storages[tensor.storage.key], dtype)
    shape, strides = (tuple(map(int, values)) for values in (tensor.shape, tensor.strides))
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((*shape, *strides, tensor.offset, 0)) < 0 or (math.prod(shape) and last >= len(elements)):
        raise ValueError("a tensor reaches beyond its numbers")
    return np.lib.stride_tricks.as_strided(
        elements[tensor.offset :], shape, [stride * dtype.itemsize for stride in strides], writeable=False
    )
