"""TFRecords in the official ImageNet layout: train-00000-of-01024, ..., labels from 1.

Source: github.com/tensorflow/tpu, models/official/efficientnet/imagenet_input.py; tools/datasets/imagenet_to_gcs.py.
"""

import functools
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source, shuffle

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
}
FIRST_LABEL = 1  # in the records; 0 is the background
WITH_BACKGROUND = 1001  # classes with which the official code keeps the labels as they are
OFFICIAL_IMAGES = {("train", 1024): 1_281_167, ("validation", 128): 50_000}  # of ImageNet, by number of files
SHUFFLE_BUFFER = 1024  # records
FILES_AT_ONCE = 64
RECORDS_AT_ONCE = 16
READ_BUFFERS = {False: 256 << 10, True: 8 << 20}  # bytes, of files on this machine and of others
RECORD_HEADER, RECORD_FOOTER = struct.Struct("<QI"), 4  # length, its checksum; checksum of the record
STAT_THREADS = 32


def find_files(folder: str, split: str) -> list[str]:
    """The files of a split, sorted. Raises FileNotFoundError where there are none."""
    files = sorted(tf.io.gfile.glob(os.path.join(folder, f"{split}-*")))
    if not files:
        raise FileNotFoundError(
            f"No files {split}-* in {folder!r}. `data_dir` must be a folder of TFRecords called "
            "train-00000-of-01024, ..., validation-00000-of-00128, ... (any number of them); for a folder of class "
            "folders say `dataset=folder`."
        )
    return files


def find_splits(folder: str, config) -> tuple[list[str], list[str]]:
    """The files to train on and those to evaluate on; a list is empty where `config.mode` does not need it.

    With `holdout_shards` so many training files, the first, are never trained on. They are what is evaluated, but for
    an `eval_name` with "test" in it, which means the validation files.

    Raises:
        FileNotFoundError: there are none.
        ValueError: all training files would be held out.
    """
    held = config.holdout_shards or 0
    minival = held > 0 and "test" not in (config.eval_name or "")
    train = find_files(folder, "train") if config.mode != "eval" or minival else []
    if held and train and held >= len(train):
        raise ValueError(f"`holdout_shards` must be below the {len(train)} training files. Received: {held}")
    if config.mode == "train":
        valid = []
    else:
        valid = train[:held] if minival else find_files(folder, "validation")
    return (train[held:] if config.mode != "eval" else []), valid


def class_names(folder: str, classes: int | None) -> tuple[str, ...] | None:
    """The lines of labels.txt, if it is there; with the background before them where 1001 `classes` are wanted."""
    path = os.path.join(folder, "labels.txt")
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        names = tuple(file.read().splitlines())
    return ("background", *names) if classes == WITH_BACKGROUND == len(names) + 1 else names


def count_images(split: str, files: Sequence[str], classes: int) -> int:
    """The records of the files, which are read from header to header; of ImageNet's 1000 classes the number is known.

    Raises:
        ValueError: a file ends within a record, or there is no record at all.
    """
    if not files:
        return 0
    official = OFFICIAL_IMAGES.get((split, len(files))) if classes in (1000, WITH_BACKGROUND) else None
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        images = official or sum(threads.map(_count_records, files))
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


def open_records(files: Sequence[str], classes: int, images: int) -> Source:
    """The records of some files, a file after the other, or in an order of files and records that a seed decides."""
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        sizes = list(threads.map(lambda path: tf.io.gfile.stat(path).length, files))
    first_label = 0 if classes == WITH_BACKGROUND else FIRST_LABEL
    buffer = READ_BUFFERS["://" in files[0]]

    def items(read, seed):
        pairs = tf.data.Dataset.from_tensor_slices((list(files), tf.constant(sizes, tf.int64)))
        if seed is None:
            return pairs.flat_map(read)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seed)
        shuffled = tf.data.Dataset.from_tensor_slices(
            (tf.gather(tf.constant(files), order), tf.gather(tf.constant(sizes, tf.int64), order))
        )
        together = shuffled.interleave(
            read, cycle_length=FILES_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return shuffle(together, SHUFFLE_BUFFER, seed)

    return Source(
        images,
        functools.partial(items, functools.partial(_records, buffer)),
        lambda record: parse(record, first_label),
        functools.partial(items, functools.partial(_named_records, buffer)),
        first_label,
        lambda record: record == "",
        fault,
    )


def fault(record):
    """What is wrong with a record that cannot be parsed, in words."""
    damaged = "cannot be read: the file is cut off or has a wrong checksum here, and what follows in it is lost"
    return tf.where(record == "", damaged, "is no tf.train.Example with image/encoded and image/class/label")


def parse(record, first_label: int = FIRST_LABEL):
    """(bytes of the picture, label from 0, of any value) of one record."""
    features = tf.io.parse_single_example(record, FEATURES)
    return features["image/encoded"], features["image/class/label"] - first_label


def _records(buffer, path, size):
    """The records of a file. An empty file, whose copying failed, has an empty record, which cannot be parsed."""
    records = tf.data.TFRecordDataset(path, buffer_size=buffer)
    return records.concatenate(tf.data.Dataset.from_tensors("").take(tf.cast(size == 0, tf.int64)))


def _named_records(buffer, path, size):
    """(name, record) of each record, and an empty record where the file cannot be read on.

    TensorFlow's error does not name the file; what was read without it must come to the file's size in bytes.
    """

    def number_them(state, records):
        number, position = state
        lengths = tf.cast(tf.strings.length(records), tf.int64)
        position += tf.reduce_sum(lengths + RECORD_HEADER.size + RECORD_FOOTER)
        damaged = (tf.size(records) == 0) & ((position != size) | (size == 0))
        records = tf.concat([records, tf.fill([tf.cast(damaged, tf.int32)], "")], axis=0)
        numbers = number + tf.range(tf.size(records, tf.int64))
        names = tf.strings.join([path, ", record ", tf.strings.as_string(numbers), " (counted from 0)"])
        return (number + tf.size(lengths, tf.int64), position), (names, records)

    # some at a time, as a function call for each would cost more than the reading; none mark the end
    records = tf.data.TFRecordDataset(path, buffer_size=buffer).ignore_errors().batch(RECORDS_AT_ONCE)
    marked = records.concatenate(tf.data.Dataset.from_tensors(tf.fill([0], "")))
    return marked.scan((tf.constant(0, tf.int64), tf.constant(0, tf.int64)), number_them).unbatch()
