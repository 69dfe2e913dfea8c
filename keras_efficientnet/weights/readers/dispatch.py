"""Files of weights -> arrays by their names there, without running anything that stands in them."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.weights.readers.checkpoints import open_checkpoint
from keras_efficientnet.weights.readers.hdf5 import open_h5, open_preset
from keras_efficientnet.weights.readers.pth import open_pth, open_safetensors
from keras_efficientnet.weights.readers.stored import Stored

PTH = (".pth", ".pt", ".bin", ".tar")


@contextlib.contextmanager
def open_weights(path: Path, *, average: bool = True) -> Iterator[dict[str, Stored]]:
    """The arrays of a file of any kind, by the names that the program which wrote it gave them; read when used.

    Args:
        path: of a file, of a TensorFlow checkpoint (what its files are called before `.index`, or its folder), or of a
            folder of keras-hub.
        average: whether to take the averaged weights, where the file holds both them and the trained ones.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not whole, or of no known kind.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            arrays = stack.enter_context(_open_folder(path, average))
        elif prefix := find_prefix(path):
            arrays = stack.enter_context(open_checkpoint(prefix, average=average))
        elif not path.is_file():
            raise FileNotFoundError(
                "`weights` must be None or the path of a TensorFlow checkpoint, a run's folder, a keras-hub preset or "
                f"a .weights.h5, .h5, .keras, .safetensors or .pth file. There is no file {str(path)!r}."
            )
        elif path.suffix == ".safetensors":
            arrays = stack.enter_context(open_safetensors(path))
        elif path.suffix in PTH:
            arrays = stack.enter_context(open_pth(path, average=average))
        else:
            arrays = stack.enter_context(open_h5(path))
        yield arrays


def find_prefix(path: Path) -> str | None:
    """What the files of a TensorFlow checkpoint are called before `.index`, if `path` is that or one of them."""
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(path))
    return prefix if Path(f"{prefix}.index").is_file() else None


def _open_folder(path, average):
    if (path / "model.weights.h5").is_file():
        return open_preset(path)
    state = path / "checkpoint"  # names the last one
    if state.is_file():
        named = re.search(r'^model_checkpoint_path: "(.*)"$', state.read_text("utf-8", "replace"), re.MULTILINE)
        prefix = find_prefix(path / Path(named[1]).name) if named else None
        if prefix is None:
            raise ValueError(f"{state} names no checkpoint that is there. Give the path of one, without .index.")
        return open_checkpoint(prefix, average=average)
    raise ValueError(f"{path} is a folder without a TensorFlow checkpoint, a run or a keras-hub preset in it.")
