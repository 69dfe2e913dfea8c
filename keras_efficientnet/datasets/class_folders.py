"""Reads a folder with one subfolder of images per class, or one such folder each for training and validation."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.datasets.sources import Seed, Source
from keras_efficientnet.decoding import IMAGE_SUFFIXES

SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "test")}
HELD_OUT = 10  # without a validation folder, every tenth image of a class, by name, is held out for validation


class ImageFiles(NamedTuple):
    """Images of a split, sorted by class and name."""

    paths: list[str]
    labels: list[int]  # from 0
    names: list[str]  # of the classes


def list_images(folder: str, names: Sequence[str] | None = None) -> ImageFiles:
    """Returns the images in the class folders of `folder`.

    Args:
        folder: has one folder of images per class, named after the class; local or gs://.
        names: allowed classes in the order of their labels; by default the classes found, sorted.

    Raises:
        ValueError: there are no classes, a class has no image, or a class is not in `names`.
    """
    found = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder) if not name.startswith("."))
    found = [name for name in found if tf.io.gfile.isdir(os.path.join(folder, name))]
    names = list(names or found)
    if unknown := set(found) - set(names):
        raise ValueError(f"{folder} has classes that the training data lack: {', '.join(sorted(unknown)[:5])}.")
    paths, labels = [], []
    for name in found:
        files = sorted(tf.io.gfile.listdir(os.path.join(folder, name)))
        files = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")]
        if not files:
            raise ValueError(f"{os.path.join(folder, name)} has no image file. Expected {', '.join(IMAGE_SUFFIXES)}.")
        paths += [os.path.join(folder, name, file) for file in files]
        labels += [names.index(name)] * len(files)
    if not paths:
        raise ValueError(f"{folder} has no class folders. It must have one folder of images per class.")
    return ImageFiles(paths, labels, names)


def find_splits(folder: str) -> dict[str, ImageFiles]:
    """Returns the images of "train" and "validation".

    `folder` has folders train and validation (or val, test, ...) with class folders in each, or class folders only. If
    there is no validation folder, every tenth image of a class, in the order of their names, is held out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder has another layout.
    """
    if not tf.io.gfile.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r}. `data_dir` must be a folder with class folders.")
    train, validation = (
        next((path for name in SPLITS[split] if tf.io.gfile.isdir(path := os.path.join(folder, name))), None)
        for split in ("train", "validation")
    )
    if train is None and validation is not None:
        raise ValueError(f"{folder} has {validation}, but no folder train. Rename or create it.")
    images = list_images(train or folder)
    if validation is None:
        return _hold_out(images)
    return {"train": images, "validation": list_images(validation, images.names)}


def _hold_out(images: ImageFiles) -> dict[str, ImageFiles]:
    """Holds out every tenth image of each class for validation, so that both splits have the same shares of classes."""
    counts = {label: 0 for label in images.labels}
    splits = {"train": ImageFiles([], [], images.names), "validation": ImageFiles([], [], images.names)}
    for path, label in zip(images.paths, images.labels, strict=True):
        counts[label] += 1
        split = splits["validation" if counts[label] % HELD_OUT == 0 else "train"]
        split.paths.append(path)
        split.labels.append(label)
    if not splits["validation"].paths:
        raise ValueError(
            f"No class has {HELD_OUT} images, so none can be held out for validation. Make folders train/ and "
            "validation/ with class folders in each."
        )
    return splits


def open_images(files: ImageFiles) -> Source:
    """Returns the images of a split as a source. Each seed gives a permutation of all images."""
    images = len(files.paths)

    def items(seed: Seed) -> tf.data.Dataset:
        order = tf.range(images)
        if seed is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        paths, labels = tf.constant(files.paths), tf.constant(files.labels, tf.int64)
        return tf.data.Dataset.from_tensor_slices((tf.gather(paths, order), tf.gather(labels, order)))

    return Source(
        images=images,
        classes=len(files.names),
        items=items,
        load=lambda path, label: (tf.io.read_file(path), label),
        named=lambda seed: items(seed).map(lambda path, label: (path, path, label)),
    )
