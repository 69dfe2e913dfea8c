"""Decodes and augments on other machines by tf.data service. Images and their order stay those of one machine."""

from collections.abc import Callable

import tensorflow as tf


def serve(
    share: Callable[[int, int], tf.data.Dataset], addresses: str | None, batch: int, shard_index: int, shard_count: int
) -> tf.data.Dataset:
    """Returns the examples of a worker, made on this machine or by services.

    Args:
        share: (index, count) -> the examples of slice `index` if each global batch is cut into `count` slices.
        addresses: services with one worker each, grpc://host:port, comma-separated; None makes the examples here. Each
            service makes one slice of every batch.
        batch: images of a global batch.
        shard_index: number of this worker, from 0.
        shard_count: number of workers.

    Raises:
        ValueError: the batch is not a multiple of the number of readers.
    """
    if not addresses:
        return share(shard_index, shard_count)
    services = addresses.split(",")
    readers = shard_count * len(services)
    parts = [share(shard_index * len(services) + number, readers) for number in range(len(services))]
    slice_images = batch // readers
    served = [
        part.batch(slice_images, drop_remainder=True).apply(
            tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.OFF, address)
        )
        for part, address in zip(parts, services, strict=True)
    ]
    turns = tf.data.Dataset.range(len(served)).repeat()
    return tf.data.Dataset.choose_from_datasets(served, turns).unbatch()
