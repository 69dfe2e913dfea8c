"""A source -> the images of a run, in an order that the seed and the number of the example alone decide.

Epoch and index of an example give its order and its pixels; not the threads, the workers or where a run stopped. What
was seen before is skipped, and what other workers take is dropped, before anything is decoded.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.augmentation import make_augmentation
from keras_efficientnet.datasets.damage import explain, map_or_stop, read
from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.preprocessing import image_for_evaluation, image_for_training


def train_examples(
    source: Source, images: int, config, variant: Variant, start: int, shard_index: int, shard_count: int
) -> tf.data.Dataset:
    """Endless (image, label), from example `start` on, counted over all epochs.

    Args:
        source: the training split.
        images: of an epoch; a run then resumes where it was, whatever `num_train_images` says.
        config: the options: seed, augmentation, classes, the size of the global batch.
        variant: the network: the size of the images.
        start: examples that the run has seen, on all workers together.
        shard_index: which of the workers this is, from 0.
        shard_count: workers; each takes its slice of every global batch, so that the batch is that of one worker.

    Raises:
        ValueError: a global batch does not divide by the workers.
    """
    if config.train_batch_size % shard_count:
        raise ValueError(
            f"`train_batch_size` must be a multiple of the {shard_count} readers. Received: {config.train_batch_size}"
        )
    share = config.train_batch_size // shard_count
    seed = tf.random.split(tf.constant([config.seed, 0]), 2)  # of the order; of the pixels

    def epoch_items(epoch):
        items = source.items(tf.random.fold_in(seed[0], epoch)).repeat()
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(epoch).repeat(), tf.data.Dataset.range(images), items)

    def is_ours(number, _):
        return number % config.train_batch_size // share == shard_index

    def example(epoch, index, item):
        pixels_seed = tf.random.fold_in(tf.random.fold_in(seed[1], epoch), index)
        data, label = read(source, config.num_label_classes, item)
        return augmented(data, pixels_seed, config, variant), label

    epochs = tf.data.Dataset.range(start // images, tf.int64.max)
    items = epochs.flat_map(epoch_items).skip(start % images)
    if shard_count > 1:
        items = items.enumerate().filter(is_ours).map(lambda number, item: item)

    def describe(epoch, index, item):
        return explain(source, config.num_label_classes, item)

    return map_or_stop(items, example, describe, endless=True)


def encoded_examples(source: Source, config) -> tf.data.Dataset:
    """(bytes of a picture, label), each once, in the order in which the first epoch of training takes them."""
    order_seed, classes = tf.random.split(tf.constant([config.seed, 0]), 2)[0], config.num_label_classes

    def load(*item):
        return read(source, classes, item)

    first_epoch = tf.data.Dataset.range(1).flat_map(lambda epoch: source.items(tf.random.fold_in(order_seed, epoch)))
    return map_or_stop(first_epoch, load, lambda *item: explain(source, classes, item))


def augmented(data, seed, config, variant: Variant):
    """The picture in `data` as training sees it: float32 [resolution, resolution, 3]; `seed`: int32 [2]."""
    crop_seed, augment_seed = tf.unstack(tf.random.split(seed, 2))
    image = image_for_training(
        data,
        variant.resolution,
        crop_seed,
        random_crop=config.random_resized_crop,
        random_flip=config.random_flip,
        **_resampling(config, variant),
    )
    augment = make_augmentation(
        config.augment_name,
        num_layers=config.randaug_num_layers,
        magnitude=config.randaug_magnitude,
        official=config.augment_version == "official",
        erasing=config.random_erasing,
    )
    return augment(image, augment_seed) if augment else image


def valid_examples(
    source: Source, images: int, config, variant: Variant, shard_index: int = 0, shard_count: int = 1
) -> tf.data.Dataset:
    """(image, label), each once, in the order of the files; of `shard_count` workers each takes every so manyth."""
    pixels = make_reader(config, variant)

    def example(*item):
        data, label = read(source, config.num_label_classes, item)
        return pixels(data), label

    items = source.items(None).take(images).shard(shard_count, shard_index)
    return map_or_stop(items, example, lambda *item: explain(source, config.num_label_classes, item))


def make_reader(config, variant: Variant) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from the bytes of a picture to the pixels that evaluation takes, [resolution, resolution, 3]."""
    return lambda data: image_for_evaluation(data, variant.resolution, **_resampling(config, variant))


def _resampling(config, variant):
    return {
        "crop_fraction": config.crop_fraction or variant.crop_fraction,
        "interpolation": config.interpolation or variant.interpolation,
        "half_pixel_centers": config.half_pixel_centers,
    }
