"""Builds the datasets of a run from its options."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets.damage import check_first, without_broken
from keras_efficientnet.datasets.pipeline import (
    encoded_examples,
    explain_train,
    explain_valid,
    train_examples,
    valid_examples,
)
from keras_efficientnet.datasets.service import serve
from keras_efficientnet.datasets.sources import Source, cached
from keras_efficientnet.datasets.splits import DEFAULT_CLASSES, Splits, open_splits
from keras_efficientnet.datasets.transfer import check_transfer


class Data(NamedTuple):
    """The data of a run. Images are float32 [resolution, resolution, 3] from 0 to 255; labels are int32 from 0."""

    train: Callable[..., tf.data.Dataset]  # (examples seen before, shard_index=0, shard_count=1) -> (image, label)
    train_images: int
    valid: tf.data.Dataset | None  # each (image, label) once
    valid_images: int
    class_names: tuple[str, ...] | None  # None: the data have no class names
    classes: int = DEFAULT_CLASSES
    valid_shard: Callable[[int, int], tf.data.Dataset] | None = None  # (shard_index, shard_count) -> part of `valid`
    broken_examples: tuple[str, ...] = ()  # descriptions of the examples that `skip_broken_records` left out
    encoded_images: Callable[[], tf.data.Dataset] | None = None  # -> (encoded image, label), order of epoch 0
    explain_train: Callable[[int], str | None] = lambda start: None  # examples seen before -> broken example, described
    explain_valid: Callable[[], str | None] = lambda: None  # -> broken example, described; None: none is broken

    @property
    def display_names(self) -> tuple[str, ...]:
        """Returns the class names, or the class numbers if the data have no names."""
        return self.class_names or tuple(str(number) for number in range(self.classes))


def make_datasets(config: TrainConfig, variant: Variant) -> Data:
    """Returns the training and validation data of a run.

    Args:
        config: options of the run; `dataset` tells what kind of data `data_dir` holds.
        variant: network, which gives the size of the images and the defaults of cropping and resizing.

    Raises:
        FileNotFoundError: there are no such files.
        ValueError: a file is cut off, the first example is broken, or the data have other classes than the options.

    Example:
        >>> from keras_efficientnet.architectures import find_variant
        >>> data = make_datasets(TrainConfig(dataset="sample"), find_variant("efficientnet-b0"))
        >>> data.train_images, data.valid_images, data.classes
        (1442, 355, 10)
    """
    names, classes, splits = open_splits(config)
    config = dataclasses.replace(config, num_label_classes=classes)
    splits, broken = _check_examples(splits, config)
    if not config.skip_broken_records:
        check_transfer(config.dataset or "", classes, [source.images if source else 0 for source in splits])
    train, valid = (cached(source) if source and config.use_cache else source for source in splits)
    train_images = config.num_train_images or (train.images if train else 0)
    valid_images = config.num_eval_images or (valid.images if valid else 0)

    def train_from(start: int, shard_index: int = 0, shard_count: int = 1) -> tf.data.Dataset:
        share = partial(train_examples, _required(train), train_images, config, variant, start)
        return serve(share, config.tf_data_service, config.train_batch_size, shard_index, shard_count)

    def valid_shard(shard_index: int, shard_count: int) -> tf.data.Dataset:
        return valid_examples(_required(valid), valid_images, config, variant, shard_index, shard_count)

    return Data(
        train=train_from,
        train_images=train_images,
        valid=valid_shard(0, 1) if valid else None,
        valid_images=valid_images,
        class_names=names,
        classes=classes,
        valid_shard=valid_shard if valid else None,
        broken_examples=broken,
        encoded_images=(lambda: encoded_examples(train, config)) if train else None,
        explain_train=lambda start: explain_train(_required(train), train_images, config, start),
        explain_valid=lambda: explain_valid(_required(valid), valid_images, config),
    )


def _required(source: Source | None) -> Source:
    if source is None:
        raise ValueError("The `mode` of the run does not read this split. Choose mode=train_and_eval.")
    return source


def _check_examples(splits: Splits, config: TrainConfig) -> tuple[Splits, tuple[str, ...]]:
    """Reads the first example of each split, or leaves out and describes all broken ones if the options say so."""
    if not config.skip_broken_records:
        for source in filter(None, splits):
            check_first(source)
        return splits, ()
    checked = [without_broken(source) if source else (None, []) for source in splits]
    return Splits(*(source for source, _ in checked)), tuple(problem for _, problems in checked for problem in problems)
