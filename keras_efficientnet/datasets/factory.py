"""The data of a run: "sample", "records", "folder" or a name of TensorFlow Datasets -> tf.data."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.datasets import catalog, folders, records
from keras_efficientnet.datasets.damage import check_first, without
from keras_efficientnet.datasets.pipeline import (
    encoded_examples,
    explain_train,
    explain_valid,
    train_examples,
    valid_examples,
)
from keras_efficientnet.datasets.service import serve
from keras_efficientnet.datasets.sources import Source, cached
from keras_efficientnet.datasets.transfer import TRANSFER, check_transfer

CLASSES = 1000  # where neither the data nor the options say


class Data(NamedTuple):
    """What a run reads. Images are float32 [resolution, resolution, 3] from 0 to 255; labels int32 from 0."""

    train: Callable[..., tf.data.Dataset]  # (examples seen before, shard_index=0, shard_count=1) -> (image, label)
    train_images: int
    valid: tf.data.Dataset | None  # (image, label), each once
    valid_images: int
    class_names: tuple[str, ...] | None
    classes: int = CLASSES
    valid_shard: Callable[[int, int], tf.data.Dataset] | None = None  # (shard_index, shard_count) -> a worker's share
    broken: tuple[str, ...] = ()  # examples that `skip_broken_records` left out, and why
    pictures: Callable[[], tf.data.Dataset] | None = None  # (encoded picture, label) as the first epoch takes them
    explain_train: Callable[[int], str | None] = lambda start: None  # after an error: the broken example, in words
    explain_valid: Callable[[], str | None] = lambda: None  # None: none is broken

    @property
    def names(self) -> tuple[str, ...]:
        """What each class is called: its number where the data have no names."""
        return self.class_names or tuple(str(number) for number in range(self.classes))


class _Splits(NamedTuple):
    train: Source | None  # None: the mode does not need it
    valid: Source | None


def make_datasets(config, variant: Variant) -> Data:
    """The training and validation data that `config`, a TrainConfig, asks for.

    Args:
        config: its `dataset` says what kind of data `data_dir` holds.
        variant: the network: the size of the images, and how they are cropped and resized where `config` is silent.

    Raises:
        FileNotFoundError: no such files.
        ValueError: a file is cut off, the first example is broken, or the data have other classes than the options.
    """
    names, open_splits = _find(config)
    classes = _count_classes(names, config.num_label_classes)
    config = dataclasses.replace(config, num_label_classes=classes)
    splits = open_splits(config)
    splits, broken = _check(splits, config)
    if not config.skip_broken_records:
        check_transfer(config.dataset or "", classes, [source.images if source else 0 for source in splits])
    train, valid = (cached(source) if source and config.use_cache else source for source in splits)
    train_images = config.num_train_images or (train.images if train else 0)
    valid_images = config.num_eval_images or (valid.images if valid else 0)

    def train_from(start: int, shard_index: int = 0, shard_count: int = 1) -> tf.data.Dataset:
        def share(index, count):
            return train_examples(train, train_images, config, variant, start, index, count)

        return serve(share, config.tf_data_service, config.train_batch_size, shard_index, shard_count)

    def valid_shard(shard_index: int, shard_count: int) -> tf.data.Dataset:
        return valid_examples(valid, valid_images, config, variant, shard_index, shard_count)

    return Data(
        train=train_from,
        train_images=train_images,
        valid=valid_shard(0, 1) if valid else None,
        valid_images=valid_images,
        class_names=names,
        classes=classes,
        valid_shard=valid_shard if valid else None,
        broken=broken,
        pictures=(lambda: encoded_examples(train, config)) if train else None,
        explain_train=lambda start: explain_train(train, train_images, config, start),
        explain_valid=lambda: explain_valid(valid, valid_images, config),
    )


def _find(config):
    """The names of the classes, None if the data have none, and a function from the options to the splits."""
    kind = config.dataset or ("records" if config.data_dir else "sample")
    if kind == "sample":
        if config.data_dir:
            raise ValueError(
                "`dataset=sample` comes with the package. Leave out `data_dir`, or name another `dataset`."
            )
        return _find_records(str(resources.files("keras_efficientnet").joinpath("data/sample")), config)
    if kind in ("records", "folder") and not config.data_dir:
        raise ValueError(f"`dataset={kind}` needs its folder. Give `data_dir`.")
    if kind == "records":
        return _find_records(config.data_dir, config)
    if config.holdout_shards:
        raise ValueError(f"`holdout_shards` is for records. Received: dataset={kind}; leave it out.")
    if kind in TRANSFER and not TRANSFER[kind].splits:
        return _find_in_folder(kind, config)
    return _find_folder(config.data_dir) if kind == "folder" else _find_in_catalog(kind, config)


def _find_in_folder(name, config):
    """A data set that nobody may give away: its pictures, or records of them, are in `data_dir`."""
    if not config.data_dir:
        raise ValueError(
            f"{TRANSFER[name].title} is not in tensorflow-datasets. Give `data_dir`: class folders in train/ and "
            "test/, or records."
        )
    records_there = tf.io.gfile.glob(os.path.join(config.data_dir, "train-*"))
    return _find_records(config.data_dir, config) if records_there else _find_folder(config.data_dir)


def _find_records(folder, config):
    def open_splits(config):
        train, valid = records.find_splits(folder, config)
        counted = _count_records(folder, train, valid, config)
        return _Splits(
            *(
                records.open_records(files, config.num_label_classes, images) if files else None
                for files, images in zip((train, valid), counted, strict=True)
            )
        )

    return records.class_names(folder, config.num_label_classes), open_splits


def _count_records(folder, train, valid, config):
    """The images of both splits; 0 where broken records will be left out, as the good ones are counted then."""
    if config.skip_broken_records:
        return 0, 0
    held, classes = config.holdout_shards or 0, config.num_label_classes
    minival = held > 0 and bool(valid) and os.path.basename(valid[0]).startswith("train-")
    valid_images = config.num_eval_images or records.count_images(
        "held out" if minival else "validation", valid, classes
    )
    if config.num_train_images or not train:
        return config.num_train_images or 0, valid_images
    every = records.find_files(folder, "train")  # of ImageNet the number is known, of a part of it not
    return records.count_images("train", every, classes) - records.count_images(
        "held out", every[:held], classes
    ), valid_images


def _find_folder(folder):
    splits = folders.find_splits(folder)
    return tuple(splits["train"].names), _opener(splits, folders.open_pictures)


def _find_in_catalog(name, config):
    builder = catalog.make_builder(name, config.data_dir)
    return catalog.class_names(builder), _opener(catalog.find_splits(builder), partial(catalog.open_split, builder))


def _opener(splits, open_split):
    """A function from the options to the splits that their mode needs."""

    def open_splits(config):
        return _Splits(
            open_split(splits["train"]) if config.mode != "eval" else None,
            open_split(splits["validation"]) if config.mode != "train" else None,
        )

    return open_splits


def _count_classes(names, wanted):
    if names and wanted and len(names) != wanted:
        raise ValueError(
            f"The data names {len(names)} classes, `num_label_classes` is {wanted}. They must be as many: leave the "
            "option out."
        )
    return len(names) if names else wanted or CLASSES


def _check(splits, config):
    """The splits without broken examples, if so wanted, and what these are; else only their first examples are read."""
    broken: list[str] = []
    kept = []
    for source in splits:
        if source and config.skip_broken_records:
            source, found = without(source, config.num_label_classes)
            broken += found
        elif source:
            check_first(source, config.num_label_classes)
        kept.append(source)
    return _Splits(*kept), tuple(broken)
