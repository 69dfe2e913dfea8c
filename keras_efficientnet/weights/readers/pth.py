"""Files of weights of PyTorch programs -> arrays, without running anything that stands in them."""

import contextlib
import functools
import io
import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from keras_efficientnet.weights.readers.stored import Stored, in_words

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
SAFE_TYPES = {  # of safetensors
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}
AVERAGED, TRAINED = ("state_dict_ema", "model_ema"), ("state_dict", "model")  # where training programs keep weights
WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")
SAFE, PTH = "a whole .safetensors file", "a whole .pth file of tensors"
MOST_ARGUMENTS = 8  # of a function that a file names; PyTorch gives at most 7
MOST_AXES = 64  # of an array of numpy


class Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of a `.safetensors` file.

    Raises:
        ValueError: it is none, not whole, or has numbers that numpy lacks.
    """
    with contextlib.ExitStack() as stack:
        with in_words(path, SAFE):
            with safetensors.safe_open(path, "np"):  # holds the header to the bytes that are there
                file = stack.enter_context(open(path, "rb"))
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            if others := {row["dtype"] for row in header.values()} - set(SAFE_TYPES):
                raise ValueError(f"numpy has no numbers of type {', '.join(sorted(others))}")
            types = {key: SAFE_TYPES[row["dtype"]] for key, row in header.items()}

        def store(key, shape, begin):
            def read():
                with in_words(path, SAFE):
                    file.seek(8 + length + begin)
                    return np.fromfile(file, types[key], math.prod(shape)).reshape(shape)

            return Stored(shape, types[key], read)

        yield {key: store(key, row["shape"], row["data_offsets"][0]) for key, row in header.items()}


@contextlib.contextmanager
def open_pth(path: Path, *, average: bool = True) -> Iterator[dict[str, Stored]]:
    """The arrays of a `.pth` file, as PyTorch's `torch.save(model.state_dict(), path)` writes it. Needs no PyTorch.

    Of a training program's file, which holds more, the averaged weights, else the trained ones. The names lose the
    "module." and "_orig_mod." that training on several devices and torch.compile put before them.

    Args:
        path: of the file.
        average: whether averaged weights go before trained ones.

    Raises:
        ValueError: it is none, not whole, or asks for anything but tensors: nothing in it is run.
    """
    with contextlib.ExitStack() as stack:
        with in_words(path, PTH):
            file = stack.enter_context(open(path, "rb"))
            content, storages = _read_zip(file) if zipfile.is_zipfile(path) else _read_legacy(file)
            tensors = _collect(content, (*AVERAGED, *TRAINED) if average else TRAINED)
            bytes_of = functools.lru_cache(1)(lambda key: storages[key].read())  # several tensors may lie in one
            for tensor in tensors.values():
                _check_reach(tensor, storages[tensor.storage.key].size)

        def store(tensor):
            def read():
                with in_words(path, PTH):
                    return _view(tensor, bytes_of(tensor.storage.key))

            return Stored(tensor.shape, tensor.storage.dtype, read)

        yield {name: store(tensor) for name, tensor in tensors.items()}


class _Operations(dict):
    """Of a pickle: what carries each out, by its first byte."""

    def __missing__(self, operation):
        raise pickle.UnpicklingError(f"it has the operation {operation:#x}, which PyTorch never writes")


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the one in Python: its operations can be chosen
    """Makes dictionaries, lists, tuples, numbers, strings and `Tensor` records; any other name in the file is an error.

    The file names functions and gives them arguments: it gets those of `find_class`. Attributes are not set. A small
    file could ask for much: to pass on a million arguments again and again, or for keys that take for ever to compare.
    Arguments are few therefore, and keys strings, or numbers that are their own hash.
    """

    OPERATIONS = (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "PERSID", "BINPERSID"),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "UNICODE"),
        *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST"),
        *("APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    )
    dispatch = _Operations(
        (getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])  # type: ignore[attr-defined]
        for name in OPERATIONS
    )

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}  # that the content refers to

    def find_class(self, module, name):
        if module == "torch" and name in TYPES:
            return name
        functions = {
            ("collections", "OrderedDict"): lambda *_: {},
            ("argparse", "Namespace"): lambda *_: {},  # the options of a training program
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if (module, name) not in functions:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code; nothing was run")
        return functions[module, name]

    def persistent_load(self, identifier):
        if type(identifier) is not tuple or len(identifier) not in (5, 6):
            raise pickle.UnpicklingError("it refers to something else than numbers")
        kind, dtype, key, _, elements, *view = identifier
        if any(part is not None for part in view):
            raise pickle.UnpicklingError("it has a view of other numbers, as PyTorch wrote it before 0.4")
        if not (kind == "storage" and isinstance(dtype, str) and dtype in TYPES and isinstance(elements, int)):
            raise pickle.UnpicklingError("it refers to something else than numbers of a known type")
        storage = Storage(TYPES[dtype], str(key) if isinstance(key, (str, int)) else "", elements)
        return self.storages.setdefault(storage.key, storage)

    def load_reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple or len(arguments) > MOST_ARGUMENTS:
            raise pickle.UnpicklingError("it calls a function with too much")
        self.stack.append(function(*arguments))

    def load_build(self):
        self.stack.pop()

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key], [value])

    def load_setitems(self):
        items = self.pop_mark()
        self._set(self.stack[-1], items[::2], items[1::2])

    def _set(self, mapping, keys, values):
        if type(mapping) is not dict or not all(type(key) is str or _is_small(key) for key in keys):
            raise pickle.UnpicklingError("its keys are not names")
        mapping.update(zip(keys, values, strict=True))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce  # a class called as a function
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("it has a tensor without numbers")
    if not all(type(axes) is tuple and len(axes) <= MOST_AXES for axes in (shape, strides)):
        raise pickle.UnpicklingError("it has a tensor whose shape is none")
    if not all(map(_is_small, (offset, *shape, *strides))):
        raise pickle.UnpicklingError("a tensor reaches beyond its numbers")
    return Tensor(storage, offset, shape, strides)


def _is_small(number):
    return type(number) is int and abs(number) < 2**60


class Bytes(NamedTuple):
    size: int
    read: Any


def _read_zip(file):
    """The content of the pickle, and the bytes of each storage that it refers to."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which PyTorch never does")
    pickled = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if pickled is None:
        raise ValueError("it has no data.pkl")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers have another order of bytes")
    unpickler = _Unpickler(io.BytesIO(archive.read(pickled)))
    content = unpickler.load()
    entries = {key: archive.getinfo(f"{folder}data/{key}") for key in unpickler.storages}
    storages = {key: Bytes(entry.file_size, functools.partial(archive.read, entry)) for key, entry in entries.items()}
    return content, storages


def _read_legacy(file):
    magic, _, _ = (_Unpickler(file).load() for _ in range(3))
    if magic != LEGACY_MAGIC:
        raise ValueError("it does not begin as one")
    unpickler = _Unpickler(file)
    content = unpickler.load()
    keys = _Unpickler(file).load()
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    storages = {}
    for key in keys:
        file.seek(here)
        (elements,) = struct.unpack("<q", file.read(8))
        size = max(0, elements) * unpickler.storages[key].dtype.itemsize
        storages[key] = Bytes(size, functools.partial(_read_at, file, here + 8, size))
        here += 8 + size
        if here > end:
            raise EOFError("it ends too early")
    return content, storages


def _read_at(file, place, size):
    file.seek(place)
    return file.read(size)


def _collect(content, nested) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} in place of a dictionary of tensors")
    content = next((content[key] for key in nested if isinstance(content.get(key), dict)), content)
    tensors: dict[Any, Any] = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(content):
        raise ValueError(
            f"it holds {len(content) - len(tensors)} things that are no tensors, and {len(tensors)} that are"
        )
    named = {WRAPPED.sub("", str(name)): value for name, value in tensors.items()}
    if len(named) < len(tensors):
        raise ValueError("it has names twice, with and without module. or _orig_mod.")
    return named


def _check_reach(tensor, size):
    """The shape and strides of a tensor, which come from the file, are held to the bytes that are there."""
    elements = size // tensor.storage.dtype.itemsize
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    lowest = min((*tensor.shape, *tensor.strides, tensor.offset, 0))
    if lowest < 0 or (math.prod(tensor.shape) and tensor.offset + reach >= elements):
        raise ValueError("a tensor reaches beyond its numbers")


def _view(tensor, content):
    _check_reach(tensor, len(content))
    elements = np.frombuffer(content, tensor.storage.dtype)
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)
