"""tf.data service: other machines decode and augment, and the images and their order stay those of one machine."""

from collections.abc import Callable

import tensorflow as tf


def serve(
    share: Callable[[int, int], tf.data.Dataset], addresses: str | None, batch: int, shard_index: int, shard_count: int
) -> tf.data.Dataset:
    """The examples of a worker, made here or by services.

    Args:
        share: (index, count) -> the examples in slice `index` of each global batch, cut into `count`.
        addresses: of services with one worker each, grpc://host:port, comma-separated; None to make them here. Each
            makes its slice of every batch.
        batch: images of a global batch.
        shard_index: which of the workers this is, from 0.
        shard_count: workers.

    Raises:
        ValueError: a batch does not divide by the readers.
    """
    if not addresses:
        return share(shard_index, shard_count)
    services = addresses.split(",")
    readers = shard_count * len(services)
    parts = [share(shard_index * len(services) + place, readers) for place in range(len(services))]
    slice_images = batch // readers
    served = [
        part.batch(slice_images, drop_remainder=True).apply(
            tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.OFF, address)
        )
        for part, address in zip(parts, services, strict=True)
    ]
    turns = tf.data.Dataset.range(len(served)).repeat()
    return tf.data.Dataset.choose_from_datasets(served, turns).unbatch()
