"""Opens weights files of every kind, by their endings, without running anything in them."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.paths import missing_weights
from keras_efficientnet.weights.readers.checkpoints import open_checkpoint
from keras_efficientnet.weights.readers.hdf5 import open_h5, open_preset
from keras_efficientnet.weights.readers.lazy_array import LazyArray
from keras_efficientnet.weights.readers.pth import open_pth
from keras_efficientnet.weights.readers.safetensors import open_safetensors

PTH_ENDINGS = (".pth", ".pt", ".bin", ".tar")


@contextlib.contextmanager
def open_weights(path: Path, *, average: bool = True) -> Iterator[dict[str, LazyArray]]:
    """Opens the arrays of a weights file of any kind, by the names that the file has for them.

    Args:
        path: a file; a TensorFlow checkpoint, by its prefix (the path without `.index`) or its folder; or a keras-hub
            preset folder.
        average: whether to prefer averaged weights to trained weights, where the file holds both.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of an unknown kind.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            arrays = stack.enter_context(_open_folder(path, average))
        elif prefix := find_prefix(path):
            arrays = stack.enter_context(open_checkpoint(prefix, average=average))
        elif not path.is_file():
            raise missing_weights(path)
        elif path.suffix == ".safetensors":
            arrays = stack.enter_context(open_safetensors(path))
        elif path.suffix in PTH_ENDINGS:
            arrays = stack.enter_context(open_pth(path, average=average))
        else:
            arrays = stack.enter_context(open_h5(path))
        yield arrays


def find_prefix(path: Path) -> str | None:
    """Returns the prefix of a TensorFlow checkpoint if `path` is the prefix or one of its files, else None."""
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(path))
    return prefix if Path(f"{prefix}.index").is_file() else None


def _open_folder(path, average):
    if (path / "model.weights.h5").is_file():
        return open_preset(path)
    state = path / "checkpoint"  # TensorFlow's file that names the latest checkpoint
    if state.is_file():
        named = re.search(r'^model_checkpoint_path: "(.*)"$', state.read_text("utf-8", "replace"), re.MULTILINE)
        prefix = find_prefix(path / Path(named[1]).name) if named else None
        if prefix is None:
            raise ValueError(f"{state} names no checkpoint that exists. Give the path of a checkpoint, without .index.")
        return open_checkpoint(prefix, average=average)
    raise ValueError(f"{path} is a folder without a TensorFlow checkpoint, a run or a keras-hub preset in it.")
