"""Reads a folder with one subfolder of images per class, or one such folder each for training and validation."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.datasets.sources import Seed, Source
from keras_efficientnet.paths import IMAGE_SUFFIXES, missing_class_folders

SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "test")}
SYSTEM_FILES = ("desktop.ini", "thumbs.db")  # written by Windows into any folder
HELD_OUT = 10  # without a validation folder, every tenth image of a class, by name, is held out for validation


class ImageFiles(NamedTuple):
    """Images of a split, sorted by class and name."""

    paths: list[str]
    labels: list[int]  # from 0
    names: list[str]  # of the classes


def list_images(folder: str, names: Sequence[str] | None = None) -> ImageFiles:
    """Returns the images in the class folders of `folder`, and warns of files that are not read.

    Args:
        folder: has one folder of images per class, named after the class; local or gs://.
        names: allowed classes in the order of their labels; by default the classes found, sorted.

    Raises:
        ValueError: there are no classes, a class has no image, or a class is not in `names`.
    """
    folders, files = _scan(folder)
    found = [name for name in folders if not name.startswith(".")]
    names = list(names or found)
    if unknown := set(found) - set(names):
        raise ValueError(f"{folder} has classes that the training data lack: {', '.join(sorted(unknown)[:5])}.")
    images = ImageFiles([], [], names)
    unread = Counter({"beside the class folders": sum(map(_is_image, files))})
    unread["in folders whose names begin with a dot"] = sum(
        _count_images(os.path.join(folder, name)) for name in set(folders) - set(found)
    )
    for name in found:
        path = os.path.join(folder, name)
        files, others = _list_class(path)
        if not files:
            raise ValueError(f"{path} has no image file. Expected {', '.join(IMAGE_SUFFIXES)}.{_describe(others)}")
        images.paths.extend(os.path.join(path, file) for file in files)
        images.labels.extend([names.index(name)] * len(files))
        unread += others
    if not images.paths:
        raise ValueError(
            f"{folder} has no class folders. It must have one folder of images per class.{_describe(unread)}"
        )
    if unread := +unread:
        logging.warning(f"{folder}: {len(images.paths)} images are read.{_describe(unread)}")
    return images


def _list_class(folder: str) -> tuple[list[str], Counter[str]]:
    """Returns the images of a class, and how many files are not read, by the reason."""
    folders, files = _scan(folder)
    images = [file for file in files if _is_image(file)]
    others: Counter[str] = Counter(
        os.path.splitext(file)[1] or "without an ending" for file in files if _is_other(file)
    )
    others["in subfolders of classes"] = sum(_count_images(os.path.join(folder, name)) for name in folders)
    hidden = [file for file in files if file.startswith(".") and not file.startswith("._")]
    others["whose names begin with a dot"] = sum(_is_image(file.lstrip(".")) for file in hidden)
    return images, +others


def _describe(unread: Counter[str]) -> str:
    """Returns a sentence with the number of files by reason, or "" if there are none."""
    parts = [f"{number} {reason}" for reason, number in unread.most_common() if number]
    return f" Not read are {unread.total()} files: {', '.join(parts)}." if parts else ""


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")


def _is_other(file: str) -> bool:
    """Returns whether a file may be an image of an unknown format."""
    return not _is_image(file) and not file.startswith(".") and file.lower() not in SYSTEM_FILES


def _count_images(folder: str) -> int:
    """Returns the number of images in a folder and all folders in it."""
    return sum(sum(map(_is_image, files)) for _, _, files in tf.io.gfile.walk(folder))


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the folders and of the files in a folder."""
    if "://" in folder:
        names = tf.io.gfile.listdir(folder)
        entries = {name.rstrip("/"): _is_remote_folder(folder, name) for name in names}
    else:
        with os.scandir(folder) as found:
            entries = {entry.name: entry.is_dir() for entry in found}
    ordered = sorted(entries)
    return [name for name in ordered if entries[name]], [name for name in ordered if not entries[name]]


def _is_remote_folder(parent: str, name: str) -> bool:
    """The names of folders end with a slash, but not on every file system."""
    may_be_folder = not name.lower().endswith(IMAGE_SUFFIXES)
    return name.endswith("/") or (may_be_folder and tf.io.gfile.isdir(os.path.join(parent, name)))


def find_splits(folder: str) -> dict[str, ImageFiles]:
    """Returns the images of "train" and "validation".

    `folder` has folders train and validation (or val, test, ..., in upper or lower case) with class folders in each, or
    class folders only; a class may be called train. If there is no validation folder, every tenth image of a class, in
    the order of their names, is held out.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder has another layout, or a single class.
    """
    if not tf.io.gfile.isdir(folder):
        raise missing_class_folders(folder)
    train, validation = _find_split_folders(folder)
    if train is None and validation is not None:
        raise ValueError(f"{folder} has {validation}, but no folder train. Rename or create it.")
    images = list_images(train or folder)
    held_out = list_images(validation, images.names) if validation else None
    if len(images.names) == 1:
        raise ValueError(
            f"{train or folder} has one class folder, {images.names[0]!r}. A classifier needs at least two classes: "
            "add folders, or check `data_dir`."
        )
    return {"train": images, "validation": held_out} if held_out else _hold_out(images)


def _find_split_folders(folder: str) -> tuple[str | None, str | None]:
    """Returns the paths of the training and the validation folder. Raises ValueError if there are two of one name."""
    folders = [name for name in _scan(folder)[0] if not name.startswith(".")]
    all_names = SPLITS["train"] + SPLITS["validation"]
    others = [name for name in folders if name.lower() not in all_names]
    are_classes = any(any(map(_is_image, _scan(os.path.join(folder, name))[1])) for name in others)

    def is_split(path: str) -> bool:
        """A split has class folders; a class has images, and may have folders with fewer images beside them."""
        inner, files = _scan(path)
        images = sum(map(_is_image, files))
        return not images or (bool(inner) and (not are_classes or _count_images(path) > 2 * images))

    found: dict[str, str | None] = {}
    for split, wanted in SPLITS.items():
        matches = [[name for name in folders if name.lower() == word] for word in wanted]
        paths = [[path for name in names if is_split(path := os.path.join(folder, name))] for names in matches]
        first, *same = next(filter(None, paths), [None])
        if same:
            raise ValueError(f"{first} and {same[0]} differ in case only. Rename one of them.")
        found[split] = first
    if others and any(found.values()):
        unread = sum(_count_images(os.path.join(folder, name)) for name in others)
        logging.warning(f"{folder}: {unread} images beside train, ... are not read: in {', '.join(others[:5])}.")
    return found["train"], found["validation"]


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
