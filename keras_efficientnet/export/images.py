"""The images that an exported file is calibrated and measured on: those of the run, of a folder, of the sample."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import find_variant
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.evaluation.predictions import find_images
from keras_efficientnet.export.pixels import find_resampling
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import find_run


class Images(NamedTuple):
    """Pictures as evaluation crops and resizes them."""

    pixels: np.ndarray  # float32 [n, height, width, 3], from 0 to 255
    labels: np.ndarray | None  # int64 [n], the right classes; None where nobody says
    origin: str  # in words


def load_images(
    model: keras.Model,
    path: str | os.PathLike[str],
    source: str | None = None,
    *,
    count: int = 500,
    train: bool = False,
) -> Images:
    """Images for a model.

    Args:
        model: a classifier; its input size and its classes count.
        path: where it was loaded from. The folder of a run says how pictures are cropped and resized.
        source: "sample", the digits of the package; a folder with records in the official layout, with class folders,
            or with `train/` and `validation/`; or image files, folders and patterns, separated by commas, whose classes
            nobody says. None for the data of the run.
        count: how many, at most.
        train: the first `count` of the training images in the order of the run, cropped and resized as the others;
            else those for validation.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: `path` is no run and there is no `source`, the data have other classes than the model, or the images
            are not square and of three channels.
    """
    _, height, width, channels = model.input_shape
    if height is None or height != width or channels != 3:
        raise ValueError(f"Images are cropped to squares of RGB. {model.name} takes {model.input_shape[1:]}.")
    if count < 1:
        raise ValueError(f"There must be at least one image. Received: {count}")
    kind = _find_kind(source)
    config = _find_options(model, path, source, kind or {})
    variant = find_variant(config.model_name)._replace(resolution=height)
    reader = make_reader(config, variant)
    if kind is None:
        return _read_files(find_images(source or ""), reader, count)
    data = make_datasets(dataclasses.replace(config, mode="train" if train else "eval"), variant)
    if data.classes != model.output_shape[-1]:
        raise ValueError(
            f"The images of {source or path} are of {data.classes} classes, {model.name} has {model.output_shape[-1]}."
        )
    examples: Any = data.valid
    if train and data.pictures:
        examples = data.pictures().map(lambda picture, label: (reader(picture), label))
    pixels, labels = zip(*examples.take(count).as_numpy_iterator(), strict=True)
    split = "training" if train else "validation"
    return Images(np.stack(pixels), np.array(labels, "int64"), f"{len(labels)} {split} images of {source or path}")


def _find_options(model, path, source, kind):
    """The options of a run, with the data that are asked for; else with what the model's name tells of pictures."""
    if folder := find_run(path):
        return make_config(mode="eval", model_dir=os.fspath(folder.path), **kind)
    if source is None:
        raise ValueError(f"{path} is no folder of a run, whose data could be taken. Give `images`: a folder of them.")
    if source == "sample":
        return make_config(**kind)
    return make_config(recipe="official", **kind | find_resampling(model))


def _find_kind(source):
    """The options of TrainConfig that name the data, or None where `source` is files."""
    if source is None:
        return {}
    kind = {"data_dir": source, "holdout_shards": None}
    if source == "sample":
        return kind | {"dataset": "sample", "data_dir": None}
    if any(tf.io.gfile.glob(os.path.join(source, f"{split}-*")) for split in ("train", "validation")):
        return kind | {"dataset": "records"}
    if os.path.isdir(source) and sum(entry.is_dir() for entry in Path(source).iterdir()) > 1:
        return kind | {"dataset": "folder"}
    return None


def _read_files(files, reader, count):
    pixels = []
    for file in files[:count]:
        try:
            pixels.append(reader(Path(file).read_bytes()).numpy())
        except tf.errors.OpError:
            raise ValueError(f"{file} is no whole BMP, GIF, JPEG, PNG or WebP picture. Leave it out.") from None
    return Images(np.stack(pixels), None, f"{len(pixels)} images given")
