"""What all readers return: a split of a dataset as items, which are small and lead to the encoded images."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Seed: TypeAlias = "tf.Tensor | None"  # int32 [2] decides the order of an epoch; None keeps the order of the files
Items = Callable[[Seed], tf.data.Dataset]


class Source(NamedTuple):
    """A split of a dataset. An item is a scalar or a tuple of scalars: images are decoded after items were shuffled.

    Training reads `items`, in which a damaged file raises an error of TensorFlow that does not name the file. `named`
    gives the same items in the same order with their names. It is slower, and does not stop at a damaged file: there it
    has an item for which `load` fails.
    """

    images: int
    classes: int
    items: Items  # -> items
    load: Callable[..., tuple[tf.Tensor, tf.Tensor]]  # item -> encoded image; label, int64 from 0
    named: Items  # -> (name of the item for messages, scalars of the item)
    first_label: int = 0  # label of the first class in the files, for messages
    is_damage: Callable[..., tf.Tensor | bool] = lambda *item: False  # whether a named item stands for a damaged file
    fault: Callable[..., tf.Tensor | str] = lambda *item: "cannot be read"  # why `load` fails for an item


def shuffle(items: tf.data.Dataset, buffer: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Shuffles items through a buffer.

    Args:
        items: any dataset.
        buffer: number of items in the shuffle buffer.
        seed: int32 [2].
    """
    tf.random.set_seed(1)  # affects this graph only; without it, Dataset.shuffle rejects a tensor as seed
    # drawn from both numbers: `fold_in` leaves the epoch in the second, and the first is the same in every epoch
    number = tf.random.stateless_uniform((), seed, minval=None, maxval=None, dtype=tf.int64)
    return items.shuffle(buffer, seed=number)


def cached(source: Source) -> Source:
    """Returns the source with its items kept in memory after they were read once."""

    def shuffled(items: tf.data.Dataset) -> Items:
        return lambda seed: items if seed is None else shuffle(items, max(source.images, 1), seed)

    return source._replace(items=shuffled(source.items(None).cache()), named=shuffled(source.named(None)))
