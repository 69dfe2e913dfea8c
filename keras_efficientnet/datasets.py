"""TFRecords in the official ImageNet layout -> tf.data, in an order that the seed and the step alone decide.

Source: github.com/tensorflow/tpu, models/official/efficientnet/imagenet_input.py; tools/datasets/imagenet_to_gcs.py.
"""

import os
import struct
from collections.abc import Callable, Sequence
from importlib import resources
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.augmentation import make_augmentation
from keras_efficientnet.preprocessing import image_for_evaluation, image_for_training

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
}
FIRST_LABEL = 1  # in the records; 0 is the background
OFFICIAL_IMAGES = {("train", 1024): 1_281_167, ("validation", 128): 50_000}  # of ImageNet, by number of files
SHUFFLE_BUFFER = 16_384  # records
FILES_AT_ONCE = 16
RECORD_HEADER, RECORD_FOOTER = struct.Struct("<QI"), 4  # length, its checksum; checksum of the record


class Data(NamedTuple):
    """What a run reads. Images are float32 [resolution, resolution, 3] from 0 to 255; labels int32 from 0."""

    train: Callable[[int], tf.data.Dataset]  # examples seen before -> endless (image, label)
    train_images: int
    valid: tf.data.Dataset | None  # (image, label), each once
    valid_images: int
    class_names: tuple[str, ...] | None


def make_datasets(config, variant: Variant) -> Data:
    """The training and validation data that `config`, a TrainConfig, asks for.

    Args:
        config: its `data_dir` holds the files, the embedded digits by default.
        variant: the network: the size of the images, and how they are cropped and resized where `config` is silent.

    Raises:
        FileNotFoundError: no such files.
        ValueError: a file is cut off, or the names of the classes are not as many as the classes.
    """
    folder = config.data_dir or str(resources.files("keras_efficientnet").joinpath("data/sample"))
    train_files = find_files(folder, "train") if config.mode != "eval" else []
    valid_files = find_files(folder, "validation") if config.mode != "train" else []
    train_images = config.num_train_images or count_images("train", train_files, config.num_label_classes)
    valid_images = config.num_eval_images or count_images("validation", valid_files, config.num_label_classes)
    return Data(
        train=lambda start: _train(train_files, train_images, config, variant, start),
        train_images=train_images,
        valid=_valid(valid_files, config, variant).take(valid_images) if valid_files else None,
        valid_images=valid_images,
        class_names=_class_names(folder, config.num_label_classes),
    )


def find_files(folder: str, split: str) -> list[str]:
    """The files of a split, sorted. Raises FileNotFoundError where there are none."""
    files = sorted(tf.io.gfile.glob(os.path.join(folder, f"{split}-*")))
    if not files:
        raise FileNotFoundError(
            f"No files {split}-* in {folder!r}. `data_dir` must be a folder of TFRecords called "
            "train-00000-of-01024, ..., validation-00000-of-00128, ... (any number of them)."
        )
    return files


def count_images(split: str, files: Sequence[str], classes: int) -> int:
    """The records of the files, which are read from header to header; of ImageNet's 1000 classes the number is known.

    Raises:
        ValueError: a file ends within a record, or there is no record at all.
    """
    if not files:
        return 0
    official = OFFICIAL_IMAGES.get((split, len(files))) if classes in (1000, 1001) else None
    images = official or sum(map(_count_records, files))
    if not images:
        raise ValueError(f"The files {files[0]}, ... hold no record. Make or copy them again.")
    return images


def _count_records(path: str) -> int:
    records = position = 0
    size = tf.io.gfile.stat(path).length
    with tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(RECORD_HEADER.size)
            if len(header) == RECORD_HEADER.size:
                position += RECORD_HEADER.size + RECORD_HEADER.unpack(header)[0] + RECORD_FOOTER
            if len(header) < RECORD_HEADER.size or position > size:
                raise ValueError(
                    f"{path} is cut off, or no TFRecord file: it ends at byte {size}, within record {records} "
                    "(counted from 0). Make or copy it again."
                )
            records += 1
    return records


def _class_names(folder, classes):
    path = os.path.join(folder, "labels.txt")
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        names = tuple(file.read().splitlines())
    if len(names) != classes:
        raise ValueError(f"{path} names {len(names)} classes, `num_label_classes` is {classes}. They must be as many.")
    return names


def _train(files, images, config, variant, start):
    """The examples from number `start` on, counted over all epochs; each epoch has its own order."""
    seed = tf.random.split(tf.constant([config.seed, 0]), 2)  # of the order; of the pixels

    def epoch_records(epoch):
        tf.random.set_seed(1)  # of this graph alone: Dataset.shuffle fails with a tensor where the global seed is 0
        records = _shuffled(files, tf.random.fold_in(seed[0], epoch))
        records = records.repeat().take(images)  # whatever `num_train_images` says: a run then resumes where it was
        return records.enumerate().map(lambda index, record: (epoch, index, record))

    def example(epoch, index, record):
        pixels_seed = tf.random.fold_in(tf.random.fold_in(seed[1], epoch), index)
        data, label = parse(record, config.num_label_classes)
        return _augmented(data, pixels_seed, config, variant), label

    epochs = tf.data.Dataset.range(start // images, tf.int64.max)
    records = epochs.flat_map(epoch_records).skip(start % images)  # skipped before they are decoded
    return records.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def _shuffled(files, seed):
    order = tf.random.experimental.stateless_shuffle(tf.constant(files), seed)
    records = tf.data.Dataset.from_tensor_slices(order).interleave(
        tf.data.TFRecordDataset, cycle_length=FILES_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return records.shuffle(SHUFFLE_BUFFER, seed=tf.cast(seed[0], tf.int64))


def _augmented(data, seed, config, variant):
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


def _resampling(config, variant):
    return {
        "crop_fraction": config.crop_fraction or variant.crop_fraction,
        "interpolation": config.interpolation or variant.interpolation,
        "half_pixel_centers": config.half_pixel_centers,
    }


def _valid(files, config, variant):
    def example(record):
        data, label = parse(record, config.num_label_classes)
        return image_for_evaluation(data, variant.resolution, **_resampling(config, variant)), label

    return tf.data.TFRecordDataset(files).map(example, num_parallel_calls=tf.data.AUTOTUNE)


def parse(record, classes: int):
    """(bytes of the picture, label from 0) of one record; a label outside the classes is an error."""
    features = tf.io.parse_single_example(record, FEATURES)
    label = features["image/class/label"]
    last = FIRST_LABEL + classes - 1
    message = f"A label must be {FIRST_LABEL} to {last}, for {classes} classes; check `num_label_classes`. Received:"
    check = tf.debugging.Assert((label >= FIRST_LABEL) & (label <= last), [message, label])
    with tf.control_dependencies([check]):
        return features["image/encoded"], tf.cast(label - FIRST_LABEL, tf.int32)
