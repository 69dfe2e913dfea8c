"""An array that stays in its file until somebody asks for its numbers."""

import contextlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

# what the content of a file that is broken, or made to break its reader, raises
BROKEN = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError),
    *(RecursionError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
    safetensors.SafetensorError,
)

MOST = 300  # letters of what is wrong with a file: names in it may have any number


class Stored:
    """What `numpy.asarray` reads when it is called, and not before; shape and type are known at once.

    Args:
        shape: of the array.
        dtype: of its numbers.
        read: gives them.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[], np.ndarray]):
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._read(), dtype)


@contextlib.contextmanager
def in_words(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a broken file raises into a ValueError: `path` is not `kind`, and why."""
    try:
        yield
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not {kind}: {reason[:MOST]}") from error
