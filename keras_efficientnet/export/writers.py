"""A model -> a file of weights or a model of any kind, read back and compared before it takes its place."""

import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import safetensors.numpy

from keras_efficientnet import export
from keras_efficientnet.weights.readers.dispatch import open_weights
from keras_efficientnet.weights.registry import pair_variables, recognise, to_keras_applications, to_timm


def _write_timm(model, path):
    path.touch()
    mode = path.stat().st_mode  # what save_file writes is for its owner alone
    safetensors.numpy.save_file(to_timm(model), path, metadata={"format": "pt"})
    path.chmod(mode)


WRITERS: dict[str, Callable[[keras.Model, Path], None]] = {  # by the ending; without one it is a SavedModel
    ".weights.h5": lambda model, path: model.save_weights(path),
    ".keras": lambda model, path: model.save(path),
    ".safetensors": _write_timm,
    ".h5": to_keras_applications,
}


def find_ending(path: str | os.PathLike[str]) -> str:
    """The row of `WRITERS`, or "" for a SavedModel; raises a ValueError if it is another."""
    ending = next((ending for ending in WRITERS if Path(path).name.endswith(ending)), Path(path).suffix)
    if ending and ending not in WRITERS:
        known = ", ".join(WRITERS)
        raise ValueError(f"`output` must end in {known}, or in nothing for a SavedModel. Received: {str(path)!r}")
    return ending


def write(model: keras.Model, output: str | os.PathLike[str], *, overwrite: bool = False) -> int:
    """Writes a model in the form that the ending of the path asks for, and reads it back before it takes its place.

    Returns:
        The arrays that are equal; 0 for a SavedModel, whose probabilities are compared.

    Raises:
        ValueError: unknown ending, or a network that the form does not know.
        OSError: there is something at `output`, and not `overwrite`, or it could not be written.
        RuntimeError: what was written is not what the model holds.
    """
    ending = find_ending(output)
    if not ending:
        export.to_saved_model(model, output, overwrite=overwrite)
        return 0
    with export.replacing(output, overwrite, is_ours=Path.is_file) as new:
        file = new.with_name(f"new{ending}")
        try:
            WRITERS[ending](model, file)
        except safetensors.SafetensorError as error:  # a full disk, for example
            raise OSError(f"{output} could not be written: {error}") from error
        equal = compare(model, file)
        file.replace(new)
    return equal


def compare(model: keras.Model, file: Path) -> int:
    """Counts the arrays of a file, which must be all of the model, to the last bit; else raises a RuntimeError."""
    with open_weights(file) as arrays:
        pairs = list(pair_variables(model, recognise(arrays)))
        for pair in pairs:
            ours = keras.ops.convert_to_numpy(pair.variable)
            if pair.key not in arrays or not np.array_equal(pair.to_ours(arrays[pair.key]), ours, equal_nan=True):
                raise RuntimeError(f"{pair.key} is not in the file as {model.name} has it. Nothing was written.")
    return len(pairs)
