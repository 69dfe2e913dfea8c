"""Mode preview: draws training images as the network will see them."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_efficientnet.augmentation.mixing import make_mixing, targets_of
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.datasets.damage import report_broken
from keras_efficientnet.datasets.pipeline import augmented, image_seeds
from keras_efficientnet.files import save_figure
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.state import make_variant

ROWS, COLUMNS = 8, 8
NAME_LENGTH = 20  # maximum characters of a class name in a caption


class Sheet(NamedTuple):
    """Images in a grid: a row for each image, the evaluation crop in the first column, then a column per epoch."""

    images: np.ndarray  # float32 [columns, rows, resolution, resolution, 3], from 0 to 255
    targets: np.ndarray  # float32 [columns, rows, classes]


def preview(config: TrainConfig) -> Path:
    """Writes `preview.png` to the run folder: training images as evaluation and as training see them.

    Example:
        >>> import tempfile
        >>> from keras_efficientnet import recipes
        >>> config = recipes.make_config(mode="preview", input_image_size=32, model_dir=tempfile.mkdtemp())
        >>> preview(config).name
        'preview.png'

    Returns:
        The path of `preview.png`.

    Raises:
        FileNotFoundError: there are no data.
        OSError: the run folder cannot be written.
        ValueError: an option or a data file is invalid, or the run is of other classes.
    """
    train_config = dataclasses.replace(config, mode="train", use_best=False, early_stopping_evaluations=None)
    folder = RunFolder(config.directory)
    folder.check_writable()
    data = make_datasets(train_config, make_variant(config))
    folder.check_data(data.class_names, config.data_dir)
    figure = draw(make_sheet(config, data), data.display_names)
    folder.create()
    save_figure(figure, folder.preview)
    return folder.preview


def make_sheet(config: TrainConfig, data: Data) -> Sheet:
    """Returns the first images of a run, with the crops and augmentation that the run will apply to them.

    Mixup and CutMix mix the images of one column, as they mix those of one batch.

    Raises:
        ValueError: there are no training data, or one of the first images is broken.
    """
    if data.encoded_images is None:
        raise ValueError("There are no training data to preview. Give `dataset` or `data_dir`.")
    variant = make_variant(config)
    with report_broken(lambda: data.explain_train(0)):
        encoded, labels = zip(*data.encoded_images().take(ROWS), strict=True)
    read, batch = make_reader(config, variant), tf.stack(labels)
    mix = make_mixing(config.mixup_alpha, config.cutmix_alpha, data.classes)
    make_seed = image_seeds(config)

    def make_column(epoch):
        seeds = [make_seed(epoch * data.train_images + row) for row in range(len(encoded))]
        images = [augmented(image, seed, config, variant) for image, seed in zip(encoded, seeds, strict=True)]
        if mix is None:
            return tf.stack(images), targets_of(batch, data.classes)
        return mix(tf.stack(images), batch, tf.random.fold_in(tf.constant([config.seed, 1]), epoch))

    first = tf.stack([read(image) for image in encoded]), targets_of(batch, data.classes)
    columns = [first, *(make_column(tf.constant(epoch, tf.int64)) for epoch in range(COLUMNS - 1))]
    images, targets = zip(*columns, strict=True)
    return Sheet(np.stack(images), np.stack(targets))


def draw(sheet: Sheet, class_names: tuple[str, ...]) -> Figure:
    """Returns the sheet as a figure, with the class above each image, or with two classes if it is mixed."""
    columns, rows = sheet.targets.shape[:2]
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows), layout="constrained")
    cells: Any = figure.subplots(rows, columns, squeeze=False)
    for column in range(columns):
        for row in range(rows):
            cells[row, column].imshow(np.clip(sheet.images[column, row], 0, 255) / 255)
            cells[row, column].set_title(caption(sheet.targets[column, row], class_names), fontsize=7)
            cells[row, column].set_axis_off()
    figure.suptitle("left: as evaluation sees the image; right: as training sees it in seven epochs", fontsize=9)
    return figure


def caption(targets: np.ndarray, class_names: tuple[str, ...]) -> str:
    """Returns the class name, or two lines with the two classes of a mixed image and their weights of 0.5 % or more."""
    likeliest = [number for number in np.argsort(-targets)[:2] if targets[number] >= 0.005]
    names = [class_names[number][:NAME_LENGTH] for number in likeliest]
    if len(names) == 1:
        return names[0]
    return "\n".join(f"{name} {100 * targets[number]:.0f} %" for name, number in zip(names, likeliest, strict=True))
