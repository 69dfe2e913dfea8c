"""What the readers have in common: a split of a data set as items, which name an example and lead to its bytes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Source(NamedTuple):
    """A split. An item is a tuple of scalars, cheap to hold: pictures are decoded after the order is decided."""

    images: int
    items: Callable[[Any], tf.data.Dataset]  # seed of an epoch, int32 [2], or None for the order of the files -> items
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]  # item -> bytes of the picture; label, int64 from 0
    name: Callable[..., tf.Tensor]  # item -> where it lies, in words
    first_label: int = 0  # the label of the first class in the files, for messages
    fault: Callable[..., tf.Tensor | str] = lambda *item: "cannot be read"  # item that `load` fails on -> what is wrong


def shuffle(items: tf.data.Dataset, buffer: int, seed) -> tf.data.Dataset:
    """Items in an order of `seed`, int32 [2], through a buffer of so many."""
    tf.random.set_seed(1)  # of this graph alone: Dataset.shuffle fails with a tensor where the global seed is 0
    return items.shuffle(buffer, seed=tf.cast(seed[0], tf.int64))


def cached(source: Source) -> Source:
    """The source with its items in memory after they were read once."""
    kept = source.items(None).cache()
    return source._replace(items=lambda seed: kept if seed is None else shuffle(kept, max(source.images, 1), seed))
