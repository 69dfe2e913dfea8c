"""Turns a source into the images of a run. Only the seed and the number of an example decide its order and pixels.

Threads, the number of workers and interruptions change nothing. Examples that the run has already seen, or that belong
to other workers, are skipped before anything is decoded. A broken example raises an error of TensorFlow that does not
name it: `explain_train` and `explain_valid` find its name afterwards.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.augmentation import make_augmentation
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets.damage import first_problem, read
from keras_efficientnet.datasets.sources import Items, Source
from keras_efficientnet.preprocessing import image_for_training, make_reader, resampling

AUGMENTATION = (0, 0x3C6EF372)  # offset from the seed of the crop; stateless operations scramble their seeds
PARALLEL_CALLS = 64  # as in the official code
BATCHES_IN_FLIGHT = 12  # the failed example is in one of these batches: tf.while_loop runs up to ten steps at once
RECORDS_IN_FLIGHT = 8 * 1024  # records stay in a shuffle buffer of an eighth of this; one in 3000 stays longer


def train_examples(
    source: Source,
    images: int,
    config: TrainConfig,
    variant: Variant,
    start: int,
    shard_index: int,
    shard_count: int,
) -> tf.data.Dataset:
    """Returns an endless dataset of (image, label).

    Args:
        source: the training split.
        images: number of images per epoch; `num_train_images` may differ from the size of the split.
        config: options of the run.
        variant: network, which gives the size of the images.
        start: number of examples that the run has seen, counted over all workers and epochs.
        shard_index: number of this worker, from 0.
        shard_count: number of workers; each takes its slice of every global batch.

    Raises:
        ValueError: the global batch is not a multiple of the number of workers.
    """
    if config.train_batch_size % shard_count:
        raise ValueError(
            f"`train_batch_size` must be a multiple of the {shard_count} readers. Received: {config.train_batch_size}"
        )
    all_seen = (-(-start // images) + 1) * images  # from this example on, every record was read once
    seed_of = image_seeds(config)

    def own_items(first: int, last: int | None) -> tf.data.Dataset:
        items = _in_order(source.items, images, config, first, last)
        return _shard(items, config.train_batch_size, start, shard_index, shard_count)

    def search(number: tf.Tensor, item: tuple) -> tuple:
        with tf.control_dependencies(read(source, item)):
            return tf.nest.map_structure(tf.identity, (number, item))

    def example(number: tf.Tensor, item: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        data, label = read(source, item, search=False)
        return augmented(data, seed_of(number), config, variant), label

    searched = own_items(start, all_seen).map(search, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
    items = searched.concatenate(own_items(all_seen, None)).with_options(_without_autotune())
    # `map` comes last so that tf.data can fuse it with `batch`
    return items.map(example, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def _shard(items: tf.data.Dataset, batch: int, start: int, shard_index: int, shard_count: int) -> tf.data.Dataset:
    """Returns the numbered items of a worker: one slice of each global batch, counted from `start`."""

    def is_own(number: tf.Tensor, item: tuple) -> tf.Tensor:
        return (number - start) % batch // (batch // shard_count) == shard_index

    return items.filter(is_own) if shard_count > 1 else items


def _without_autotune() -> tf.data.Options:
    """Returns options without autotuning: it measures each element, which costs 2 % of the images per second."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _split_seed(config: TrainConfig) -> list[tf.Tensor]:
    """Returns the seed of the order and the seed of the pixels."""
    return tf.unstack(tf.random.split(tf.constant([config.seed, 0]), 2))


def _in_order(items: Items, images: int, config: TrainConfig, start: int, stop: int | None = None) -> tf.data.Dataset:
    """Returns (number, item) of the examples from `start` on, counted over all epochs.

    The dataset ends at `stop`, rounded up to a complete epoch; without `stop` it is endless.
    """
    order_seed = _split_seed(config)[0]

    def epoch_items(epoch: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(epoch * images, (epoch + 1) * images)
        return tf.data.Dataset.zip(numbers, items(tf.random.fold_in(order_seed, epoch)).repeat())

    epochs = tf.data.Dataset.range(start // images, tf.int64.max if stop is None else -(-stop // images))
    return epochs.flat_map(epoch_items).skip(start % images)


def explain_train(source: Source, images: int, config: TrainConfig, start: int) -> str | None:
    """Describes the first broken example that training reads from example `start` on. Returns None if none is broken.

    Searches the examples that training may have decoded. Then searches for damaged files in what the shuffle buffer may
    have read ahead, which can reach into the next epoch.
    """
    order_seed = _split_seed(config)[0]
    named = _in_order(source.named, images, config, start).map(lambda number, item: item)
    decoded = min(BATCHES_IN_FLIGHT * config.train_batch_size, 2 * images)
    problem = first_problem(source, named.take(decoded))
    epochs = tf.data.Dataset.range(start // images, start // images + 2)
    complete = epochs.flat_map(lambda epoch: source.named(tf.random.fold_in(order_seed, epoch)))
    ahead = complete.skip(start % images).take(RECORDS_IN_FLIGHT)
    return problem or first_problem(source, ahead.filter(lambda name, *item: source.is_damage(*item)))


def encoded_examples(source: Source, config: TrainConfig) -> tf.data.Dataset:
    """Returns (encoded image, label) of each example, in the order of the first epoch of training."""
    order_seed = _split_seed(config)[0]
    first_epoch = tf.data.Dataset.range(1).flat_map(lambda epoch: source.items(tf.random.fold_in(order_seed, epoch)))
    return first_epoch.map(lambda *item: read(source, item))


def image_seeds(config: TrainConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function: number of an example, counted over all epochs -> seed of its pixels, int32 [2]."""
    key = _split_seed(config)[1]  # outside the function, which would otherwise split the seed for each image
    return lambda number: key + tf.bitcast(tf.cast(number, tf.int64), tf.int32)


def augmented(data: tf.Tensor, seed: tf.Tensor, config: TrainConfig, variant: Variant) -> tf.Tensor:
    """Decodes, crops and augments an image for training.

    Args:
        data: encoded image.
        seed: int32 [2].
        config: options of the run.
        variant: network, which gives the resolution.

    Returns:
        float32 [resolution, resolution, 3].
    """
    image = image_for_training(
        data,
        variant.resolution,
        seed,
        random_crop=config.random_resized_crop,
        random_flip=config.random_flip,
        **resampling(config, variant),
    )
    augment = make_augmentation(
        config.augment_name,
        num_layers=config.randaug_num_layers,
        magnitude=config.randaug_magnitude,
        official=config.augment_version == "official",
        erasing=config.random_erasing,
    )
    return augment(image, seed + AUGMENTATION) if augment else image


def valid_examples(
    source: Source, images: int, config: TrainConfig, variant: Variant, shard_index: int = 0, shard_count: int = 1
) -> tf.data.Dataset:
    """Returns (image, label) of each example once, in the order of the files.

    Args:
        source: the validation split.
        images: number of examples over all workers.
        config: options of the run.
        variant: network, which gives the size of the images.
        shard_index: number of this worker, from 0.
        shard_count: number of workers; worker i takes examples i, i + shard_count, i + 2 * shard_count, ...
    """
    pixels = make_reader(config, variant)

    def example(*item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        data, label = read(source, item)
        return pixels(data), label

    items = source.items(None).take(images).shard(shard_count, shard_index)
    return items.map(example, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def explain_valid(source: Source, images: int, config: TrainConfig) -> str | None:
    """Describes the first broken example of an evaluation. Returns None if none is broken."""
    return first_problem(source, source.named(None).take(images))
