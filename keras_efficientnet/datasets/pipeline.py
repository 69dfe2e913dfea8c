"""A source -> the images of a run, in an order that the seed and the number of the example alone decide.

Epoch and index of an example give its order and its pixels; not the threads, the workers or where a run stopped. What
was seen before is skipped, and what other workers take is dropped, before anything is decoded. A broken example raises
an error of TensorFlow, which does not name it: names are looked for afterwards.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.augmentation import make_augmentation
from keras_efficientnet.datasets.damage import first_problem, read
from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.preprocessing import image_for_training, make_reader, resampling

AUGMENTATION = (0, 0x3C6EF372)  # what its seed is apart from the crop's; stateless operations scramble what they get
PARALLEL_CALLS = 64  # as the official code has it
BATCHES_IN_FLIGHT = 12  # one of these has failed, as tf.while_loop runs up to ten steps at once
RECORDS_IN_FLIGHT = 8 * 1024  # in a shuffle buffer of an eighth, one record in 3000 stays longer


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
    searched = (-(-start // images) + 1) * images  # from here on all was seen

    def is_ours(number, item):
        return (number - start) % config.train_batch_size // share == shard_index

    def ours(first, last):
        items = _in_order(source.items, images, config, first, last)
        return items.filter(is_ours) if shard_count > 1 else items

    def search(number, item):
        with tf.control_dependencies(read(source, config.num_label_classes, item)):
            return tf.nest.map_structure(tf.identity, (number, item))

    seed_of = image_seeds(config)

    def example(number, item):
        data, label = read(source, config.num_label_classes, item, search=False)
        return augmented(data, seed_of(number), config, variant), label

    new = ours(start, searched).map(search, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
    items = new.concatenate(ours(searched, None)).with_options(_untuned())  # last is the map: it melts with `batch`
    return items.map(example, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def _untuned():
    """Every number of threads is set here: measuring each element to tune them costs 2 % of the images a second."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _split_seed(config):
    """The seeds of the order and of the pixels."""
    return tf.unstack(tf.random.split(tf.constant([config.seed, 0]), 2))


def _in_order(items, images, config, start, stop=None):
    """(number, item) of the examples from `start` on, to before `stop` or without end; counted over all epochs."""
    order_seed = _split_seed(config)[0]

    def of_epoch(epoch):
        numbers = tf.data.Dataset.range(epoch * images, (epoch + 1) * images)
        return tf.data.Dataset.zip(numbers, items(tf.random.fold_in(order_seed, epoch)).repeat())

    epochs = tf.data.Dataset.range(start // images, tf.int64.max if stop is None else -(-stop // images))
    return epochs.flat_map(of_epoch).skip(start % images)


def explain_train(source: Source, images: int, config, start: int) -> str | None:
    """What is wrong with the first broken example from `start` on, the next that training would take; None if nothing.

    Every record is looked at where training can have come to; then only damaged files are looked for, in what a shuffle
    can have read ahead, of the next epoch too.
    """
    classes, order_seed = config.num_label_classes, _split_seed(config)[0]
    named = _in_order(source.named, images, config, start).map(lambda number, item: item)
    decoded = min(BATCHES_IN_FLIGHT * config.train_batch_size, 2 * images)
    near = first_problem(source, classes, named.take(decoded))
    epochs = tf.data.Dataset.range(start // images, start // images + 2)
    whole = epochs.flat_map(lambda epoch: source.named(tf.random.fold_in(order_seed, epoch)))
    ahead = whole.skip(start % images).take(RECORDS_IN_FLIGHT)
    return near or first_problem(source, classes, ahead.filter(lambda name, *item: source.is_damage(*item)))


def encoded_examples(source: Source, config) -> tf.data.Dataset:
    """(bytes of a picture, label), each once, in the order in which the first epoch of training takes them."""
    order_seed = _split_seed(config)[0]
    first_epoch = tf.data.Dataset.range(1).flat_map(lambda epoch: source.items(tf.random.fold_in(order_seed, epoch)))
    return first_epoch.map(lambda *item: read(source, config.num_label_classes, item))


def image_seeds(config) -> Callable:
    """A function from the number of an example, counted over all epochs, to the seed of its pixels, int32 [2]."""
    key = _split_seed(config)[1]  # not within the function, which would split again for each image
    return lambda number: key + tf.bitcast(tf.cast(number, tf.int64), tf.int32)


def augmented(data, seed, config, variant: Variant):
    """The picture in `data` as training sees it: float32 [resolution, resolution, 3]; `seed`: int32 [2]."""
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
    source: Source, images: int, config, variant: Variant, shard_index: int = 0, shard_count: int = 1
) -> tf.data.Dataset:
    """(image, label), each once, in the order of the files; of `shard_count` workers each takes every so manyth."""
    pixels = make_reader(config, variant)

    def example(*item):
        data, label = read(source, config.num_label_classes, item)
        return pixels(data), label

    items = source.items(None).take(images).shard(shard_count, shard_index)
    return items.map(example, num_parallel_calls=PARALLEL_CALLS, deterministic=True)


def explain_valid(source: Source, images: int, config) -> str | None:
    """What is wrong with the first broken example of an evaluation; None if nothing."""
    return first_problem(source, config.num_label_classes, source.named(None).take(images))
