"""Finds and opens the training and validation split that the options name."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from typing import NamedTuple, TypeVar

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import catalog, class_folders, records
from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.datasets.transfer import TRANSFER
from keras_efficientnet.labels import check_names

Split = TypeVar("Split")
DEFAULT_CLASSES = 1000  # if neither the data nor the options tell


class Splits(NamedTuple):
    train: Source | None  # None: the mode does not need it
    valid: Source | None


Open = Callable[[TrainConfig], Splits]
ClassNames = tuple[str, ...] | None  # None: the data have no class names


def open_splits(config: TrainConfig) -> tuple[ClassNames, int, Splits]:
    """Returns the class names, the number of classes, and the splits that the mode needs.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: a file is cut off, a class name cannot be exported, options contradict each other, or the data have
            other classes than the options.
    """
    names, open_them = _find(config)
    check_names(names or (), f"{config.data_dir or config.dataset}, class")
    classes = _count_classes(names, config.num_label_classes)
    return names, classes, open_them(dataclasses.replace(config, num_label_classes=classes))


def _find(config: TrainConfig) -> tuple[ClassNames, Open]:
    kind = config.dataset or ("records" if config.data_dir else "sample")
    if kind == "sample":
        if config.data_dir:
            raise ValueError("`dataset=sample` is part of the package. Leave out `data_dir`, or set another `dataset`.")
        return _find_records(str(resources.files("keras_efficientnet").joinpath("data/sample")), config)
    if kind in ("records", "folder") and not config.data_dir:
        raise ValueError(f"`dataset={kind}` needs a folder. Set `data_dir`.")
    if kind == "records":
        return _find_records(config.data_dir or "", config)
    if config.holdout_shards:
        raise ValueError(f"`holdout_shards` needs records. Received: dataset={kind}. Leave it out.")
    if kind in TRANSFER and not TRANSFER[kind].splits:
        return _find_unpublished(kind, config)
    return _find_folder(config.data_dir or "") if kind == "folder" else _find_in_catalog(kind, config)


def _find_unpublished(name: str, config: TrainConfig) -> tuple[ClassNames, Open]:
    """Finds a dataset of the paper that may not be redistributed: `data_dir` has its images, or records of them."""
    if not config.data_dir:
        raise ValueError(
            f"{TRANSFER[name].title} is not in tensorflow-datasets. Set `data_dir` to a folder of class folders in "
            "train/ and test/, or of records."
        )
    if records.holds_records(config.data_dir):
        return _find_records(config.data_dir, config)
    return _find_folder(config.data_dir)


def _find_records(folder: str, config: TrainConfig) -> tuple[ClassNames, Open]:
    def open_them(config: TrainConfig) -> Splits:
        files = records.find_splits(folder, config)
        classes = config.num_label_classes or DEFAULT_CLASSES
        train, valid = (
            records.open_records(paths, classes, images) if paths else None
            for paths, images in zip(files, _count_records(folder, *files, config), strict=True)
        )
        return Splits(train, valid)

    return records.class_names(folder, config.num_label_classes), open_them


def _count_records(folder: str, train: list[str], valid: list[str], config: TrainConfig) -> tuple[int, int]:
    """Returns the images of both splits, or 0 if broken records are left out: the valid ones are counted later."""
    if config.skip_broken_records:
        return 0, 0
    held_out, classes = config.holdout_shards or 0, config.num_label_classes or DEFAULT_CLASSES
    evaluates_held_out = held_out > 0 and bool(valid) and os.path.basename(valid[0]).startswith("train-")
    split = "held out" if evaluates_held_out else "validation"
    valid_images = config.num_eval_images or records.count_images(split, valid, classes)
    if config.num_train_images or not train:
        return config.num_train_images or 0, valid_images
    # counted over all files: the number is known for all of ImageNet, but not for a part of it
    files = records.find_files(folder, "train")
    train_images = records.count_images("train", files, classes)
    return train_images - records.count_images("held out", files[:held_out], classes), valid_images


def _find_folder(folder: str) -> tuple[ClassNames, Open]:
    splits = class_folders.find_splits(folder)
    return tuple(splits["train"].names), _opener(splits, class_folders.open_images)


def _find_in_catalog(name: str, config: TrainConfig) -> tuple[ClassNames, Open]:
    builder = catalog.make_builder(name, config.data_dir)
    return catalog.class_names(builder), _opener(catalog.find_splits(builder), partial(catalog.open_split, builder))


def _opener(splits: Mapping[str, Split], open_split: Callable[[Split], Source]) -> Open:
    def open_them(config: TrainConfig) -> Splits:
        return Splits(
            train=open_split(splits["train"]) if config.mode != "eval" else None,
            valid=open_split(splits["validation"]) if config.mode != "train" else None,
        )

    return open_them


def _count_classes(names: ClassNames, wanted: int | None) -> int:
    if names and len(names) == 1:
        raise ValueError(f"The data have one class, {names[0]!r}. A classifier needs at least two. Check `data_dir`.")
    if names and wanted and len(names) != wanted:
        raise ValueError(
            f"`num_label_classes` must match the {len(names)} class names of the data. Received: {wanted}. Leave the "
            "option out, or give the data of the run."
        )
    return len(names) if names else wanted or DEFAULT_CLASSES
