"""Mode preview: a sheet of what the network will see."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_efficientnet.augmentation.mixing import make_mixing, targets_of
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.datasets.damage import in_words
from keras_efficientnet.datasets.pipeline import augmented, image_seeds
from keras_efficientnet.files import save_figure
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.training.state import make_variant

ROWS, COLUMNS = 8, 8
NAME_LENGTH = 20  # letters of a caption's line


class Sheet(NamedTuple):
    """Rows are training images. The first column is evaluation's crop; the others are training's, an epoch each."""

    images: np.ndarray  # float32 [columns, rows, resolution, resolution, 3], from 0 to 255
    targets: np.ndarray  # float32 [columns, rows, classes]


def preview(config: TrainConfig) -> Path:
    """Writes `preview.png` to `config.directory`: training images as evaluation and as training see them.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: there are no data.
        ValueError: an option or a file of data does not fit.
    """
    of_training = dataclasses.replace(config, mode="train", use_best=False, early_stopping_evaluations=None)
    data = make_datasets(of_training, make_variant(config))
    path = Path(config.directory) / "preview.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw(make_sheet(config, data), data.names), path)
    return path


def make_sheet(config: TrainConfig, data: Data) -> Sheet:
    """The images of a preview, of the first that a run takes; the seeds are the run's, so are the crops and policies.

    Mixup and CutMix mix within a column, as within a batch.
    """
    if data.pictures is None:
        raise ValueError("There are no training data to preview. Give `dataset` or `data_dir`.")
    variant = make_variant(config)
    with in_words(lambda: data.explain_train(0)):
        encoded, labels = zip(*data.pictures().take(ROWS), strict=True)
    read, batch = make_reader(config, variant), tf.stack(labels)
    mix = make_mixing(config.mixup_alpha, config.cutmix_alpha, data.classes)

    seed_of = image_seeds(config)

    def column(epoch):
        seeds = [seed_of(epoch * data.train_images + row) for row in range(len(encoded))]
        rows = [augmented(picture, seed, config, variant) for picture, seed in zip(encoded, seeds, strict=True)]
        if mix is None:
            return tf.stack(rows), targets_of(batch, data.classes)
        return mix(tf.stack(rows), batch, tf.random.fold_in(tf.constant([config.seed, 1]), epoch))

    first = tf.stack([read(picture) for picture in encoded]), targets_of(batch, data.classes)
    columns = [first, *(column(tf.constant(epoch, tf.int64)) for epoch in range(COLUMNS - 1))]
    images, targets = zip(*columns, strict=True)
    return Sheet(np.stack(images), np.stack(targets))


def draw(sheet: Sheet, class_names: tuple[str, ...]) -> Figure:
    """The sheet as a figure; over each image its classes, with shares where it is mixed."""
    columns, rows = sheet.targets.shape[:2]
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows), layout="constrained")
    cells: Any = figure.subplots(rows, columns, squeeze=False)
    for column in range(columns):
        for row in range(rows):
            cells[row, column].imshow(np.clip(sheet.images[column, row], 0, 255) / 255)
            cells[row, column].set_title(caption(sheet.targets[column, row], class_names), fontsize=7)
            cells[row, column].set_axis_off()
    figure.suptitle("left: as evaluation sees it; right: as training does, in seven epochs", fontsize=9)
    return figure


def caption(targets: np.ndarray, class_names: tuple[str, ...]) -> str:
    """The class, or two lines of classes with their shares, where these are not below 0.5 %."""
    likeliest = [number for number in np.argsort(-targets)[:2] if targets[number] >= 0.005]
    names = [class_names[number][:NAME_LENGTH] for number in likeliest]
    if len(names) == 1:
        return names[0]
    return "\n".join(f"{name} {100 * targets[number]:.0f} %" for name, number in zip(names, likeliest, strict=True))
