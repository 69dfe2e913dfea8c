"""Reads `.safetensors` files."""

import contextlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from keras_efficientnet.weights.readers.lazy_array import LazyArray, report_damage

TYPES = {  # name in the header -> type in the file, whose numbers are little-endian
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
KIND = "a complete .safetensors file"


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[dict[str, LazyArray]]:
    """Opens the arrays of a `.safetensors` file.

    Raises:
        ValueError: the file is damaged or of another kind, or has numbers that NumPy lacks.
    """
    with contextlib.ExitStack() as stack:
        with report_damage(path, KIND):
            with safetensors.safe_open(path, "np"):  # checks the header against the size of the file
                file = stack.enter_context(open(path, "rb"))
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            if unknown := {row["dtype"] for row in header.values()} - set(TYPES):
                raise ValueError(f"NumPy has no numbers of type {', '.join(sorted(unknown))}")
            types = {key: TYPES[row["dtype"]] for key, row in header.items()}

        def make_array(key, shape, start):
            def read():
                with report_damage(path, KIND):
                    file.seek(8 + length + start)
                    return np.fromfile(file, types[key], math.prod(shape)).reshape(shape)

            return LazyArray(shape, types[key], read)

        yield {key: make_array(key, row["shape"], row["data_offsets"][0]) for key, row in header.items()}
