"""Writes a folder of class folders as TFRecords in the official ImageNet layout, always with the same bytes.

Source: github.com/tensorflow/tpu, tools/datasets/imagenet_to_gcs.py: its keys, labels from 1, shuffle of the training
images with seed 0, ceil(images / files) records per file, and RGB JPEGs in place of PNG and CMYK.
"""

import contextlib
import functools
import hashlib
import json
import math
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet import decoding
from keras_efficientnet.datasets import class_folders
from keras_efficientnet.datasets.class_folders import ImageFiles
from keras_efficientnet.datasets.damage import is_corrupt
from keras_efficientnet.datasets.records import FIRST_LABEL, LABEL_FILE, holds_records
from keras_efficientnet.files import replacing, stop_on_signals
from keras_efficientnet.labels import check_names
from keras_efficientnet.paths import IMAGE_FORMATS

IMAGES_PER_FILE = {"train": 1252, "validation": 391}  # at most; gives ImageNet its 1024 and 128 files
QUALITY = 100  # of the JPEGs that replace other formats
PNG = b"\x89PNG"  # first bytes of a PNG
OPTIONS = "to_records.json"  # what the files of a folder were made from


class Shard(NamedTuple):
    """A file to write, and its images."""

    path: str
    images: tuple[tuple[str, int, str], ...]  # path, label from 0, class name


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
    """Writes the images of a folder as files train-*, validation-* and a label file. Existing files are kept.

    Args:
        folder: class folders, or train/ and validation/ with class folders in each; local or gs://.
        output: folder to write, local or gs://. After an interruption, the same call resumes.
        train_files: number of training files; by default each has at most 1252 images, like ImageNet's 1024 files.
        validation_files: number of validation files; by default each has at most 391 images.
        seed: of the order of the training images. Validation images keep the order of classes and names.
        processes: number of files to write at the same time; by default the number of processors. It does not change
            the bytes.
        keep_png: whether to keep PNGs without loss; by default they become JPEGs, as in the official records.

    Returns:
        The number of images of each split.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no class folders, a class name is not one line, an image cannot be decoded, a file would be
            empty, or `output` holds records of other images or options.
    """
    splits = class_folders.find_splits(folder)
    check_names(splits["train"].names, f"{folder}, class")
    wanted = {"train": train_files, "validation": validation_files}
    shards = [shard for split in splits for shard in _plan(split, splits[split], output, wanted[split], seed)]
    tf.io.gfile.makedirs(output)
    _check_options(output, shards, {"seed": seed, "keep_png": keep_png})
    missing = [shard for shard in shards if not tf.io.gfile.exists(shard.path)]
    total = sum(len(shard.images) for shard in missing)
    with tqdm(total=total, unit="image", unit_scale=True, desc="writing", disable=not missing) as bar:
        write = functools.partial(write_shard, keep_png=keep_png)
        for written in _write_each(write, missing, min(processes or os.cpu_count() or 1, max(len(missing), 1))):
            bar.update(written)
    _write_text(os.path.join(output, LABEL_FILE), "".join(f"{name}\n" for name in splits["train"].names))
    return {split: len(files.paths) for split, files in splits.items()}


def _plan(split: str, files: ImageFiles, output: str, wanted: int | None, seed: int) -> list[Shard]:
    rows = [(path, label, files.names[label]) for path, label in zip(files.paths, files.labels, strict=True)]
    if split == "train":
        random.Random(seed).shuffle(rows)
    count = wanted or math.ceil(len(rows) / IMAGES_PER_FILE[split])
    size = math.ceil(len(rows) / count)
    if (count - 1) * size >= len(rows):
        raise ValueError(
            f"{count} files of {size} images would leave some empty: {split} has {len(rows)} images. Reduce "
            f"`{split}_files`."
        )
    return [
        Shard(
            os.path.join(output, f"{split}-{number:05d}-of-{count:05d}"),
            tuple(rows[number * size : (number + 1) * size]),
        )
        for number in range(count)
    ]


def _check_options(output: str, shards: Sequence[Shard], options: Mapping[str, Any]) -> None:
    """Writes what the files are made from before the first file. Raises ValueError if other files were begun."""
    listed = json.dumps([(os.path.basename(shard.path), shard.images) for shard in shards])
    made_from = {**options, "pictures_sha256": hashlib.sha256(listed.encode()).hexdigest()}
    text = json.dumps(made_from, indent=2) + "\n"
    path = os.path.join(output, OPTIONS)
    existing = _read_text(path)
    if existing is None and holds_records(output):
        raise ValueError(f"{output} holds records without {OPTIONS}, made by another program. Choose another `output`.")
    if existing not in (None, text):
        raise ValueError(f"{output} holds records of other images or options. Choose another `output`, or delete it.")
    _write_text(path, text)


def _read_text(path: str) -> str | None:
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def _write_text(path: str, text: str) -> None:
    with _replacing(path) as temporary, tf.io.gfile.GFile(temporary, "w") as file:
        file.write(text)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[str]:
    """Yields a temporary path that replaces `path`, local or gs://, when it is complete."""
    if "://" not in path:
        with replacing(path) as new:
            yield str(new)
        return
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    yield temporary
    tf.io.gfile.rename(temporary, path, overwrite=True)


def _write_each(write: Callable[[Shard], int], shards: Sequence[Shard], processes: int) -> Iterator[int]:
    """Writes the files and yields the number of images of each one that is complete."""
    if processes == 1:
        yield from map(write, shards)
        return
    # "spawn": a fork of a process with TensorFlow's threads may hang
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker)
    try:
        yield from pool.map(write, shards)
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    tf.config.set_visible_devices([], "GPU")
    stop_on_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it was killed: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def write_shard(shard: Shard, keep_png: bool = False) -> int:
    """Writes a file, completely or not at all, and returns the number of its records."""
    with _replacing(shard.path) as temporary, tf.io.TFRecordWriter(temporary) as writer:
        for path, label, name in shard.images:
            writer.write(to_record(path, label, name, keep_png))
    return len(shard.images)


def to_record(path: str, label: int, name: str, keep_png: bool = False) -> bytes:
    """Returns an image file as a tf.train.Example.

    Args:
        path: of the image.
        label: from 0.
        name: of the class.
        keep_png: whether to keep a PNG instead of encoding it as a JPEG.

    Raises:
        ValueError: the image cannot be decoded.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        data = file.read()
    keeps = keep_png and data.startswith(PNG)
    try:
        data, height, width = (data, *_decoder()(data)[0].shape[:2]) if keeps else _to_jpeg(data)
    except tf.errors.InvalidArgumentError as error:
        fault = decoding.explain(data) or f"holds no valid {IMAGE_FORMATS}"
        raise ValueError(f"{path} {fault}. Repair or remove it.") from error
    features = {
        "image/class/label": label + FIRST_LABEL,
        "image/class/synset": name,
        "image/height": height,
        "image/width": width,
        "image/colorspace": "RGB",  # also of grayscale JPEGs, as in the official records
        "image/channels": 3,
        "image/format": "PNG" if keeps else "JPEG",
        "image/filename": os.path.basename(path),
        "image/encoded": data,
    }
    return serialize(features)


def _to_jpeg(data: bytes) -> tuple[bytes, int, int]:
    """Returns a JPEG, its height and its width: unchanged with one or three channels, else encoded anew as RGB."""
    image, channels = _decoder()(data)
    height, width = image.shape[:2]
    if int(channels) in (1, 3):
        return data, height, width
    return tf.io.encode_jpeg(image, format="rgb", quality=QUALITY).numpy(), height, width


@functools.cache
def _decoder() -> Callable[[bytes], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function that checks and decodes: (uint8 [height, width, 3], channels of the JPEG or 0)."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def decode(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.Assert(~is_corrupt(data), ["a corrupt JPEG"])]):
            image = decoding.decode(data)
        return image, tf.cond(tf.io.is_jpeg(data), lambda: tf.image.extract_jpeg_shape(data)[2], lambda: 0)

    return decode


def serialize(features: Mapping[str, int | str | bytes]) -> bytes:
    """Returns a tf.train.Example with one value for each key, in the order of the keys."""
    message = tf.train.Example()
    for key in sorted(features):
        value = features[key]
        feature = message.features.feature[key]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    return message.SerializeToString(deterministic=True)
