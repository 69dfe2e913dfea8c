"""Reads TensorFlow checkpoints: those of the official TensorFlow 1 code, and those of our runs."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.paths import without_wildcards
from keras_efficientnet.weights.readers.lazy_array import LazyArray, report_damage

AVERAGED = "/ExponentialMovingAverage"  # ending of an averaged variable's name
OF_RUN = re.compile(r"(average|model)/(.+)/\.ATTRIBUTES/VARIABLE_VALUE")  # as training/state.py saves them
KIND = "a complete TensorFlow checkpoint"


@contextlib.contextmanager
def open_checkpoint(prefix: str, *, average: bool = True) -> Iterator[dict[str, LazyArray]]:
    """Opens the variables of a checkpoint by name.

    Args:
        prefix: path of the checkpoint, without `.index`.
        average: whether to prefer the averaged variables, where there are any; they get the names of the trained ones.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    import tensorflow as tf

    @contextlib.contextmanager
    def reading():
        with report_damage(path, KIND):
            try:
                yield
            except tf.errors.OpError as error:
                raise OSError(error.message) from error

    path = Path(prefix)
    with without_wildcards(prefix) as plain:
        with reading():
            reader = tf.train.load_checkpoint(plain)
            shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

        def make_array(key):
            def read():
                with reading():
                    return reader.get_tensor(key)

            return LazyArray(tuple(shapes[key]), dtypes[key].as_numpy_dtype, read)

        yield {name: make_array(key) for name, key in _select_keys(shapes, average).items()}


def _select_keys(keys, average):
    """Returns the keys to read, by the names to give them."""
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
    """Returns the name that TensorFlow escaped: `.S` is a slash, `..` a dot."""
    return name.replace(".S", "/").replace("..", ".")
