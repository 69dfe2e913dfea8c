"""A folder of class folders, with pictures in them; or one such folder for each of training and validation."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.preprocessing import PICTURE_ENDINGS

SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "test")}
HELD_OUT = 10  # without a folder for validation, every tenth picture of a class, by name, is not trained on


class Pictures(NamedTuple):
    """The pictures of a split, sorted by class and name."""

    paths: list[str]
    labels: list[int]  # from 0
    names: list[str]  # of the classes


def list_pictures(folder: str, names: Sequence[str] | None = None) -> Pictures:
    """The pictures in the class folders of `folder`.

    Args:
        folder: has a folder for each class, named by it, with pictures; local or gs://.
        names: the classes there may be, in the order of their labels; by default those there are, sorted.

    Raises:
        ValueError: there are no classes, one has no picture, or one is not in `names`.
    """
    found = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder) if not name.startswith("."))
    found = [name for name in found if tf.io.gfile.isdir(os.path.join(folder, name))]
    names = list(names or found)
    if unknown := set(found) - set(names):
        raise ValueError(f"{folder} has classes that training has not: {', '.join(sorted(unknown)[:5])}.")
    paths, labels = [], []
    for name in found:
        files = sorted(tf.io.gfile.listdir(os.path.join(folder, name)))
        files = [file for file in files if file.lower().endswith(PICTURE_ENDINGS) and not file.startswith(".")]
        if not files:
            raise ValueError(
                f"{os.path.join(folder, name)} has no picture with an ending of {', '.join(PICTURE_ENDINGS)}."
            )
        paths += [os.path.join(folder, name, file) for file in files]
        labels += [names.index(name)] * len(files)
    if not paths:
        raise ValueError(f"{folder} has no class folders. It must have a folder of pictures for each class.")
    return Pictures(paths, labels, names)


def find_splits(folder: str) -> dict[str, Pictures]:
    """The pictures of "train" and "validation".

    Of folders called so (or val, test, ...), or, where there is none for training, of the class folders themselves:
    every tenth picture of a class, in the order of their names, is then for validation.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not as described.
    """
    if not tf.io.gfile.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder!r}. `data_dir` must be one of class folders.")
    train, validation = (
        next((path for name in SPLITS[split] if tf.io.gfile.isdir(path := os.path.join(folder, name))), None)
        for split in ("train", "validation")
    )
    if train is None:
        if validation is not None:
            raise ValueError(f"{folder} has {validation}, but no folder called train. Rename it, or make one.")
        return _hold_out(list_pictures(folder))
    pictures = list_pictures(train)
    if validation is None:
        return _hold_out(pictures)
    return {"train": pictures, "validation": list_pictures(validation, pictures.names)}


def _hold_out(pictures: Pictures) -> dict[str, Pictures]:
    """Every tenth picture of a class for validation; classes are cut one by one, so each keeps its share."""
    place = {label: 0 for label in pictures.labels}
    parts = {"train": Pictures([], [], pictures.names), "validation": Pictures([], [], pictures.names)}
    for path, label in zip(pictures.paths, pictures.labels, strict=True):
        place[label] += 1
        part = parts["validation" if place[label] % HELD_OUT == 0 else "train"]
        part.paths.append(path)
        part.labels.append(label)
    if not parts["validation"].paths:
        raise ValueError(
            f"No class has {HELD_OUT} pictures, of which one would be held out for validation. Make folders train/ and "
            "validation/ with class folders in each."
        )
    return parts


def open_pictures(pictures: Pictures) -> Source:
    """The pictures of a split as a source; every order is a permutation of all of them."""
    images = len(pictures.paths)

    def items(seed):
        order = tf.range(images)
        if seed is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        paths, labels = tf.constant(pictures.paths), tf.constant(pictures.labels, tf.int64)
        return tf.data.Dataset.from_tensor_slices((tf.gather(paths, order), tf.gather(labels, order)))

    def named(seed):
        return items(seed).map(lambda path, label: (path, path, label))

    return Source(images, items, lambda path, label: (tf.io.read_file(path), label), named)
