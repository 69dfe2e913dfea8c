"""Arrays that stay in their file until their values are needed."""

import contextlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

# what the readers raise on a damaged or malicious file; of Python, and of the formats
BUILT_IN = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError)
DAMAGE = (*BUILT_IN, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, safetensors.SafetensorError)
MAX_REASON = 300  # characters of an error's reason: a file may contain names of any length


class LazyArray:
    """An array whose shape and type are known, and whose values `numpy.asarray` reads.

    Args:
        shape: shape of the array.
        dtype: type of its values.
        read: returns the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[], np.ndarray]):
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._read(), dtype)


@contextlib.contextmanager
def report_damage(path: Path, kind: str) -> Iterator[None]:
    """Raises ValueError, "`path` is not `kind`: reason", for whatever a damaged file raises."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not {kind}: {reason[:MAX_REASON]}") from error
