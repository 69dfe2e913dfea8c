"""Loads the images on which exported files are calibrated and measured: of the run, a folder, or the sample."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import find_variant
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.datasets.records import holds_records
from keras_efficientnet.decoding import explain
from keras_efficientnet.evaluation.predictions import find_images
from keras_efficientnet.export.agreement import images_for, name_outputs
from keras_efficientnet.export.pixels import find_resampling
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import find_run, folder_of


class Images(NamedTuple):
    """Images, cropped and resized as in evaluation."""

    pixels: np.ndarray  # float32 [n, height, width, 3], from 0 to 255
    labels: np.ndarray | None  # int64 [n], the true classes; None if they are unknown
    origin: str  # in words, for reports
    class_names: tuple[str, ...] | None = None  # of the class folders or records; None if they are unknown

    def rounded(self) -> "Images":
        """Returns the images as bytes can hold them: rounded, and without the overshoot of bicubic resizing."""
        pixels = np.rint(self.pixels).clip(0, 255)
        return self._replace(pixels=pixels, origin=f"{self.origin}, rounded to bytes")


def load_images(
    model: keras.Model,
    run: str | os.PathLike[str] | None = None,
    source: str | None = None,
    *,
    count: int = 500,
    train: bool = False,
) -> Images:
    """Loads images for a model: `load_images(model, source="sample", count=8).pixels` are [8, size, size, 3].

    Args:
        model: the images match its input size. For a model without as many outputs as the data have classes, such as an
            embedding, the true classes are left out.
        run: folder of the run, or its exported model; its options say how images are cropped and resized.
        source: "sample", the digits in the package; a folder with records in the official layout, with class folders,
            or with `train/` and `validation/`; or image files, folders and patterns, separated by commas, whose classes
            are unknown. None for the data of the run.
        count: number of images, at most.
        train: whether to load the first training images in the order of the run, cropped and resized as in evaluation,
            instead of validation images.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: there is neither a run nor a `source`, the data have other classes than the run or another number of
            them than a classifier, or the model does not take square RGB images.
    """
    height = _check_size(model)
    if count < 1:
        raise ValueError(f"There must be at least one image. Received: {count}")
    folder, options = find_run(run), _find_data_options(source)
    config = _make_config(model, folder, source, options or {})
    variant = find_variant(config.model_name)._replace(resolution=height)
    reader = make_reader(config, variant)
    if options is None:
        return _read_files(find_images(source or ""), reader, count)
    data = make_datasets(dataclasses.replace(config, mode="train" if train else "eval"), variant)
    if trained := folder_of(run):  # it may have class names without options
        trained.check_classes(data.class_names)
    origin = source or (folder.path if folder else "")
    has_classes = data.classes == model.output_shape[-1]
    if not has_classes and name_outputs(model) == "probabilities":
        raise ValueError(
            f"The images of {origin} are of {data.classes} classes, {model.name} has {model.output_shape[-1]}."
        )
    pixels, labels = _read_examples(data, reader if train else None, count)
    split = "training" if train else "validation"
    note = "" if has_classes else f", whose {data.classes} classes the model does not give"
    origin = f"{len(labels)} {split} images of {origin}{note}"
    true = labels if has_classes else None
    return Images(pixels=pixels, labels=true, origin=origin, class_names=data.class_names)


def _read_examples(data: Data, reader: Callable | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels and labels of the first validation images, or with a reader of the first training images."""
    examples: Any = data.valid
    if reader and data.encoded_images:
        examples = data.encoded_images().map(lambda image, label: (reader(image), label))
    pixels, labels = zip(*examples.take(count).as_numpy_iterator(), strict=True)
    return np.stack(pixels), np.array(labels, "int64")


def make_random_images(model: keras.Model) -> Images:
    """Returns a few random images, for a file without a run."""
    pixels = images_for(model)
    origin = f"{len(pixels)} random images: give `images` to measure on real ones"
    return Images(pixels=pixels, labels=None, origin=origin)


def _check_size(model) -> int:
    _, height, width, channels = model.input_shape
    if height is None or height != width or channels != 3:
        raise ValueError(f"Images are cropped to squares of RGB. {model.name} takes {model.input_shape[1:]}.")
    return height


def _make_config(model, run, source, options):
    """Returns the options of the run with the given data options; without a run, resizing follows the model's name."""
    if run:
        return make_config(mode="eval", model_dir=str(run.path), **options)
    if source is None:
        raise ValueError("The model is not in a run folder, whose data could be used. Give `images`: a folder of them.")
    if source == "sample":
        return make_config(**options)
    return make_config(recipe="official", **options | find_resampling(model))


def _find_data_options(source):
    """Returns the options of TrainConfig that describe the data, or None if `source` is image files."""
    if source is None:
        return {}
    options = {"data_dir": source, "holdout_shards": None}
    if source == "sample":
        return options | {"dataset": "sample", "data_dir": None}
    if holds_records(source):
        return options | {"dataset": "records"}
    if os.path.isdir(source) and sum(entry.is_dir() for entry in Path(source).iterdir()) > 1:
        return options | {"dataset": "folder"}
    return None


def _read_files(files, reader, count):
    pixels = []
    for file in files[:count]:
        data = Path(file).read_bytes()
        try:
            pixels.append(reader(data).numpy())
        except tf.errors.OpError:
            fault = explain(data) or "is not a valid BMP, GIF, JPEG, PNG or WebP image"
            raise ValueError(f"{file} {fault}. Leave it out.") from None
    return Images(pixels=np.stack(pixels), labels=None, origin=f"{len(pixels)} images given")
