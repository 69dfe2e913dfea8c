"""What the readers have in common: a split of a data set as items, which name an example and lead to its bytes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Source(NamedTuple):
    """A split. An item is a scalar or a tuple of them, cheap to hold: pictures are decoded after the order is decided.

    The hot path takes `items`, where a damaged file is an error of TensorFlow, which names nothing. `named` gives the
    same in the same order with names, at a higher price, and an item that `load` fails on where a file is damaged.
    """

    images: int
    items: Callable[[Any], tf.data.Dataset]  # seed of an epoch, int32 [2], or None for the order of the files -> items
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]  # item -> bytes of the picture; label, int64 from 0
    named: Callable[[Any], tf.data.Dataset]  # as `items` -> (where it lies, in words; the scalars of the item)
    first_label: int = 0  # the label of the first class in the files, for messages
    is_damage: Callable[..., tf.Tensor | bool] = lambda *item: False  # whether a named item stands for a damaged file
    fault: Callable[..., tf.Tensor | str] = lambda *item: "cannot be read"  # item that `load` fails on -> what is wrong


def shuffle(items: tf.data.Dataset, buffer: int, seed) -> tf.data.Dataset:
    """Items in an order of `seed`, int32 [2], through a buffer of so many."""
    tf.random.set_seed(1)  # of this graph alone: Dataset.shuffle fails with a tensor where the global seed is 0
    # of both numbers: `fold_in` leaves its data, the epoch, in the second, and the first is the same for each
    number = tf.random.stateless_uniform((), seed, minval=None, maxval=None, dtype=tf.int64)
    return items.shuffle(buffer, seed=number)


def cached(source: Source) -> Source:
    """The source with its items in memory after they were read once."""

    def in_order_of_seed(items):
        return lambda seed: items if seed is None else shuffle(items, max(source.images, 1), seed)

    kept, named = source.items(None).cache(), source.named(None)
    return source._replace(items=in_order_of_seed(kept), named=in_order_of_seed(named))
