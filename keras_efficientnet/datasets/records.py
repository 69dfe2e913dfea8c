"""Reads TFRecords in the official ImageNet layout: train-00000-of-01024, ..., labels from 1.

Source: github.com/tensorflow/tpu, models/official/efficientnet/imagenet_input.py; tools/datasets/imagenet_to_gcs.py.
"""

import functools
import logging
import os
import re
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets.sources import Seed, Source, shuffle
from keras_efficientnet.labels import read_labels
from keras_efficientnet.paths import missing_records

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
}
SPLITS = ("train-", "validation-")  # how the names of the files start
SHARD = re.compile(r"(?P<split>train|validation)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(\.tfrecords?)?")
FIRST_LABEL = 1  # in the files; 0 is the background
WITH_BACKGROUND = 1001  # with this number of classes the official code keeps the labels unchanged
OFFICIAL_IMAGES = {("train", 1024): 1_281_167, ("validation", 128): 50_000}  # ImageNet, by number of files
SHUFFLE_BUFFER = 1024  # records
FILES_AT_ONCE = 64
RECORDS_AT_ONCE = 16
READ_BUFFERS = {False: 256 << 10, True: 8 << 20}  # bytes, by whether the files are remote
RECORD_HEADER, RECORD_FOOTER = struct.Struct("<QI"), 4  # length and its checksum; bytes of the record's checksum
STAT_THREADS = 32
LABEL_FILE = "labels.txt"  # class names, one per line, beside the records


def find_files(folder: str, split: str) -> list[str]:
    """Returns the files of a split, sorted.

    Raises:
        FileNotFoundError: there are none.
        ValueError: some are missing, or there are files of two sets.
    """
    shards = [match for match in _find_shards(folder) if match["split"] == split]
    if not shards:
        raise missing_records(folder, split, is_folder=tf.io.gfile.isdir(folder))
    _check_complete(folder, shards)
    return [os.path.join(folder, match.string) for match in shards]


def holds_records(folder: str) -> bool:
    """Returns whether a folder has records of a training or validation split."""
    return bool(_find_shards(folder))


def _find_shards(folder: str) -> list[re.Match[str]]:
    return [match for name in _list_names(folder) if (match := SHARD.fullmatch(name))]


def _list_names(folder: str) -> list[str]:
    """Returns the sorted names in a folder; not by a pattern, of which the name of the folder would be a part."""
    return sorted(tf.io.gfile.listdir(folder)) if tf.io.gfile.isdir(folder) else []


def _check_complete(folder: str, shards: Sequence[re.Match[str]]) -> None:
    """Raises ValueError unless there is one file for each number of one set."""
    first, count = shards[0], int(shards[0]["count"])
    places = {int(match["number"]): match for match in reversed(shards)}
    strange = [match for match in shards if int(match["count"]) != count or places[int(match["number"])] is not match]
    if strange:
        raise ValueError(
            f"{folder} has {first.string} and {strange[0].string}, which are not of one set: images would count twice. "
            "Move the files of one set to another folder."
        )
    missing = sorted(set(range(count)) - set(places))
    if missing or len(places) > count:
        names = [f"{first['split']}-{number:05d}-of-{first['count']}" for number in missing]
        raise ValueError(
            f"{folder} has {len(shards)} files {first['split']}-*-of-{first['count']}, which must be {count}. Missing: "
            f"{_abbreviate(names)}. Copy them. To use a part of the files, rename them so that they are complete: "
            "00000-of-00002, 00001-of-00002."
        )


def _abbreviate(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}" if names else "none"


def warn_of_other_files(folder: str) -> None:
    """Warns of files that are named almost like records, and are not read."""
    others = [name for name in _list_names(folder) if name.startswith(SPLITS) and not SHARD.fullmatch(name)]
    if others:
        logging.warning(
            f"{folder}: {len(others)} files are not named like train-00000-of-01024 and are not read: "
            f"{_abbreviate(others)}"
        )


def find_splits(folder: str, config: TrainConfig) -> tuple[list[str], list[str]]:
    """Returns the files to train on and the files to evaluate on; a list is empty if `config.mode` does not need it.

    The first `holdout_shards` training files are never trained on. They are the files to evaluate on, unless
    `eval_name` contains "test", which selects the validation files.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: files are missing, there are files of two sets, or all training files would be held out.
    """
    warn_of_other_files(folder)
    held_out = config.holdout_shards or 0
    evaluates_held_out = held_out > 0 and "test" not in (config.eval_name or "")
    train = find_files(folder, "train") if config.mode != "eval" or evaluates_held_out else []
    if held_out and train and held_out >= len(train):
        raise ValueError(f"`holdout_shards` must be below the {len(train)} training files. Received: {held_out}")
    if config.mode == "train":
        valid = []
    else:
        valid = train[:held_out] if evaluates_held_out else find_files(folder, "validation")
    return (train[held_out:] if config.mode != "eval" else []), valid


def class_names(folder: str, classes: int | None) -> tuple[str, ...] | None:
    """Returns the class names of the label file, or None if there is none.

    Args:
        folder: may have a label file.
        classes: number of classes, if the options tell; 1001 add the name of the background.

    Raises:
        ValueError: the file is not UTF-8 text with one class name per line.
    """
    path = os.path.join(folder, LABEL_FILE)
    if not tf.io.gfile.exists(path):
        return None
    names = tuple(read_labels(path))
    return ("background", *names) if classes == WITH_BACKGROUND == len(names) + 1 else names


def count_images(split: str, files: Sequence[str], classes: int) -> int:
    """Counts the records by reading their headers. The numbers of ImageNet's official files are known.

    Raises:
        ValueError: a file is cut off, or there are no records.
    """
    if not files:
        return 0
    official = OFFICIAL_IMAGES.get((split, len(files))) if classes in (1000, WITH_BACKGROUND) else None
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        images = official or sum(threads.map(_count_records, files))
    if not images:
        raise ValueError(f"The files {files[0]}, ... hold no records. Write or copy them again.")
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
                    f"{path} is cut off, or is not a TFRecord file: it ends at byte {size}, within record {records} "
                    "(counted from 0). Write or copy it again."
                )
            records += 1
    return records


def open_records(files: Sequence[str], classes: int, images: int) -> Source:
    """Returns the records of some files as a source. A seed shuffles the files, and the records in a buffer."""
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        sizes = list(threads.map(lambda path: tf.io.gfile.stat(path).length, files))
    first_label = 0 if classes == WITH_BACKGROUND else FIRST_LABEL
    buffer = READ_BUFFERS["://" in files[0]]

    def items(read: Callable, seed: Seed) -> tf.data.Dataset:
        pairs = tf.data.Dataset.from_tensor_slices((list(files), tf.constant(sizes, tf.int64)))
        if seed is None:
            return pairs.flat_map(read)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seed)
        shuffled = tf.data.Dataset.from_tensor_slices(
            (tf.gather(tf.constant(files), order), tf.gather(tf.constant(sizes, tf.int64), order))
        )
        interleaved = shuffled.interleave(
            read, cycle_length=FILES_AT_ONCE, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return shuffle(interleaved, SHUFFLE_BUFFER, seed)

    return Source(
        images=images,
        classes=classes,
        items=functools.partial(items, functools.partial(_records, buffer)),
        load=lambda record: parse(record, first_label),
        named=functools.partial(items, functools.partial(_named_records, buffer)),
        first_label=first_label,
        is_damage=lambda record: record == "",
        fault=fault,
    )


def fault(record: tf.Tensor) -> tf.Tensor:
    """Returns why a record cannot be parsed."""
    damaged = "cannot be read: the file is cut off or has a wrong checksum here, and all records after it are lost"
    return tf.where(record == "", damaged, "is not a tf.train.Example with image/encoded and image/class/label")


def parse(record: tf.Tensor, first_label: int = FIRST_LABEL) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (encoded image, label from 0) of a record. The label is not checked."""
    features = tf.io.parse_single_example(record, FEATURES)
    return features["image/encoded"], features["image/class/label"] - first_label


def _records(buffer: int, path: tf.Tensor, size: tf.Tensor) -> tf.data.Dataset:
    """Returns the records of a file. An empty file, left by a failed copy, gives an empty record, which is invalid."""
    records = tf.data.TFRecordDataset(path, buffer_size=buffer)
    return records.concatenate(tf.data.Dataset.from_tensors("").take(tf.cast(size == 0, tf.int64)))


def _named_records(buffer: int, path: tf.Tensor, size: tf.Tensor) -> tf.data.Dataset:
    """Returns (name, record) of each record, and an empty record where the rest of the file cannot be read.

    TensorFlow's error does not name the file, so errors are ignored, and damage is found by the number of bytes read.
    """

    def name_records(state: tuple, records: tf.Tensor) -> tuple:
        number, position = state
        lengths = tf.cast(tf.strings.length(records), tf.int64)
        position += tf.reduce_sum(lengths + RECORD_HEADER.size + RECORD_FOOTER)
        damaged = (tf.size(records) == 0) & ((position != size) | (size == 0))
        records = tf.concat([records, tf.fill([tf.cast(damaged, tf.int32)], "")], axis=0)
        numbers = number + tf.range(tf.size(records, tf.int64))
        names = tf.strings.join([path, ", record ", tf.strings.as_string(numbers), " (counted from 0)"])
        return (number + tf.size(lengths, tf.int64), position), (names, records)

    # batches: one function call per record would cost more than reading it; an empty batch marks the end
    records = tf.data.TFRecordDataset(path, buffer_size=buffer).ignore_errors().batch(RECORDS_AT_ONCE)
    marked = records.concatenate(tf.data.Dataset.from_tensors(tf.fill([0], "")))
    return marked.scan((tf.constant(0, tf.int64), tf.constant(0, tf.int64)), name_records).unbatch()
