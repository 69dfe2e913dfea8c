"""A folder of class folders -> TFRecords in the official ImageNet layout, the same bytes every time.

Source: github.com/tensorflow/tpu, tools/datasets/imagenet_to_gcs.py: its keys, its labels from 1, its shuffle of the
training pictures with seed 0, its rule of ceil(pictures / files) records a file, its RGB JPEGs in
place of PNG and CMYK.
"""

import functools
import hashlib
import json
import math
import multiprocessing
import os
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet.datasets import folders
from keras_efficientnet.datasets.damage import is_corrupt
from keras_efficientnet.datasets.records import FIRST_LABEL

PICTURES_PER_FILE = {"train": 1252, "validation": 391}  # at most; gives ImageNet its 1024 and 128 files
QUALITY = 100  # of the JPEGs that replace other formats
PNG = b"\x89PNG"  # what such a file begins with
OPTIONS = "to_records.json"  # what the files of a folder were made with


class File(NamedTuple):
    """A file to write, with its pictures."""

    path: str
    pictures: tuple[tuple[str, int, str], ...]  # path, label from 0, name of the class


def write_records(
    folder: str,
    output: str,
    *,
    train_files: int | None = None,
    validation_files: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    keep_png: bool = False,
) -> dict[str, int]:
    """Writes the pictures of a folder as train-*, validation-* and labels.txt; what is there already is kept.

    Args:
        folder: class folders, or train/ and validation/ with class folders in each; local or gs://.
        output: the folder to write, local or gs://; after an interruption the same call goes on.
        train_files: how many; by default as many as keep each at 1252 pictures, as in ImageNet's 1024.
        validation_files: how many; by default as many as keep each at 391 pictures.
        seed: of the order of the training pictures; validation is in the order of classes and names.
        processes: that write at the same time, one a file; as many as there are processors by default. The bytes do
            not depend on it.
        keep_png: whether PNGs stay what they are, without loss; they become JPEGs by default, as the official ones.

    Returns:
        The pictures of each split.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no folder of class folders, a picture cannot be decoded, a file would be empty, or `output`
            holds records of other pictures or options.
    """
    splits = folders.find_splits(folder)
    wanted = {"train": train_files, "validation": validation_files}
    files = [file for split in splits for file in _plan(split, splits[split], output, wanted[split], seed)]
    tf.io.gfile.makedirs(output)
    _check_options(output, files, {"seed": seed, "keep_png": keep_png})
    missing = [file for file in files if not tf.io.gfile.exists(file.path)]
    total = sum(len(file.pictures) for file in missing)
    with tqdm(total=total, unit="picture", unit_scale=True, desc="writing", disable=not missing) as bar:
        write = functools.partial(write_file, keep_png=keep_png)
        for written in _each(write, missing, min(processes or os.cpu_count() or 1, max(len(missing), 1))):
            bar.update(written)
    names = "".join(f"{name}\n" for name in splits["train"].names)
    _write_whole(os.path.join(output, "labels.txt"), names)
    return {split: len(pictures.paths) for split, pictures in splits.items()}


def _plan(split, pictures, output, wanted, seed) -> list[File]:
    rows = [(path, label, pictures.names[label]) for path, label in zip(pictures.paths, pictures.labels, strict=True)]
    if split == "train":
        random.Random(seed).shuffle(rows)
    count = wanted or math.ceil(len(rows) / PICTURES_PER_FILE[split])
    size = math.ceil(len(rows) / count)
    if (count - 1) * size >= len(rows):
        raise ValueError(
            f"{count} files of {size} pictures would leave some empty: {split} has {len(rows)} pictures. Choose fewer "
            f"`{split}_files`."
        )
    return [
        File(
            os.path.join(output, f"{split}-{number:05d}-of-{count:05d}"),
            tuple(rows[number * size : (number + 1) * size]),
        )
        for number in range(count)
    ]


def _check_options(output, files, options):
    """Notes what the files are made of, before the first; raises ValueError where others were begun."""
    listed = json.dumps([(os.path.basename(file.path), file.pictures) for file in files])
    made_of = options | {"pictures_sha256": hashlib.sha256(listed.encode()).hexdigest()}
    text = json.dumps(made_of, indent=2) + "\n"
    path = os.path.join(output, OPTIONS)
    there = _read(path)
    if there is None and tf.io.gfile.glob(os.path.join(output, "*-of-*")):
        raise ValueError(f"{output} holds records that were not made here. Choose another `output`.")
    if there not in (None, text):
        raise ValueError(f"{output} holds records of other pictures or options. Choose another `output`, or delete it.")
    _write_whole(path, text)


def _read(path):
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def _write_whole(path, text):
    temporary = _temporary(path)
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(text)
    tf.io.gfile.rename(temporary, path, overwrite=True)


def _temporary(path):
    """A name beside `path` that no reader takes for records."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")


def _each(write, files: Sequence[File], processes: int):
    """Writes the files and gives the pictures of each that is done."""
    if processes == 1:
        yield from map(write, files)
        return
    # "spawn": a fork of a process with TensorFlow's threads may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_hide_accelerators)
    try:
        yield from pool.map(write, files)
    finally:
        pool.shutdown(cancel_futures=True)


def _hide_accelerators():
    tf.config.set_visible_devices([], "GPU")


def write_file(file: File, keep_png: bool = False) -> int:
    """Writes one file, whole or not at all, and returns the number of its records."""
    temporary = _temporary(file.path)
    with tf.io.TFRecordWriter(temporary) as writer:
        for path, label, name in file.pictures:
            writer.write(to_record(path, label, name, keep_png))
    tf.io.gfile.rename(temporary, file.path, overwrite=True)
    return len(file.pictures)


def to_record(path: str, label: int, name: str, keep_png: bool = False) -> bytes:
    """One picture with its label, from 0, and the name of its class, as a tf.train.Example.

    Raises:
        ValueError: it cannot be decoded.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        data = file.read()
    kept = keep_png and data.startswith(PNG)
    try:
        data, height, width = (data, *_decoder()(data)[0].shape[:2]) if kept else _to_jpeg(data)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{path} holds no sound JPEG, PNG, WebP or BMP. Mend it or take it away.") from error
    features = {
        "image/class/label": label + FIRST_LABEL,
        "image/class/synset": name,
        "image/height": height,
        "image/width": width,
        "image/colorspace": "RGB",  # also of gray JPEGs, as in the official records
        "image/channels": 3,
        "image/format": "PNG" if kept else "JPEG",
        "image/filename": os.path.basename(path),
        "image/encoded": data,
    }
    return serialize(features)


def _to_jpeg(data):
    """A JPEG of one or three colours as it is; anything else as an RGB JPEG; and its height and width."""
    image, colours = _decoder()(data)
    height, width = image.shape[:2]
    if int(colours) in (1, 3):
        return data, height, width
    return tf.io.encode_jpeg(image, format="rgb", quality=QUALITY).numpy(), height, width


@functools.cache
def _decoder():
    """The function that checks and decodes: (uint8 [height, width, 3], colours of the JPEG or 0)."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def decode(data):
        jpeg = tf.io.is_jpeg(data)
        with tf.control_dependencies([tf.debugging.Assert(~is_corrupt(data), ["a corrupt JPEG"])]):
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return image, tf.cond(jpeg, lambda: tf.image.extract_jpeg_shape(data)[2], lambda: 0)

    return decode


def serialize(features: dict[str, int | str | bytes]) -> bytes:
    """A tf.train.Example with one value for each key, in the order of the keys."""
    message = tf.train.Example()
    for key in sorted(features):
        value = features[key]
        feature = message.features.feature[key]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    return message.SerializeToString(deterministic=True)
