"""Checkpoints of TensorFlow -> arrays: the official code's, of TensorFlow 1, and those of our runs."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.weights.readers.stored import Stored, in_words

AVERAGED = "/ExponentialMovingAverage"  # the end of an averaged copy's name
OF_RUN = re.compile(r"(average|model)/(.+)/\.ATTRIBUTES/VARIABLE_VALUE")  # of training/state.py
WHOLE = "a whole TensorFlow checkpoint"


@contextlib.contextmanager
def open_checkpoint(prefix: str, *, average: bool = True) -> Iterator[dict[str, Stored]]:
    """The variables of a checkpoint by name.

    Args:
        prefix: what its files are called before `.index`.
        average: whether to take the averaged copies, under the names of what they are of, where there are any.

    Raises:
        ValueError: it is not whole.
    """
    import tensorflow as tf

    @contextlib.contextmanager
    def reading():
        with in_words(path, WHOLE):
            try:
                yield
            except tf.errors.OpError as error:
                raise OSError(error.message) from error

    path = Path(prefix)
    with reading():
        reader = tf.train.load_checkpoint(prefix)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

    def store(key):
        def read():
            with reading():
                return reader.get_tensor(key)

        return Stored(tuple(shapes[key]), dtypes[key].as_numpy_dtype, read)

    yield {name: store(key) for name, key in _choose(shapes, average).items()}


def _choose(keys, average):
    """The names to give, and what they are called in the checkpoint."""
    ours = {key: match for key in keys if (match := OF_RUN.fullmatch(key))}
    if ours:
        parts = {match[1] for match in ours.values()}
        part = "average" if average and "average" in parts else "model"
        return {_unescape(match[2]): key for key, match in ours.items() if match[1] == part}
    averaged = {key.removesuffix(AVERAGED): key for key in keys if key.endswith(AVERAGED)}
    if average and averaged:
        return averaged
    return {key: key for key in keys if key not in averaged.values()}


def _unescape(name):
    """The name that TensorFlow wrote with .S for a slash and two points for one."""
    return name.replace(".S", "/").replace("..", ".")
