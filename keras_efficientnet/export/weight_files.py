"""Weights of any origin -> a file of another kind, and what was mapped."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import keras

from keras_efficientnet import export
from keras_efficientnet.architectures import Variant, find_variant
from keras_efficientnet.evaluation.predictions import Prediction, find_images, predict_files
from keras_efficientnet.export.writers import find_ending, write
from keras_efficientnet.models import imagenet_classes, make_model
from keras_efficientnet.preprocessing import image_for_evaluation
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder, find_labels
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import find_file
from keras_efficientnet.weights.readers.dispatch import open_weights
from keras_efficientnet.weights.registry import convert, count_classes, find_origin

MOST_CLASSES = 100_000  # of a file that is not asked for by their number; ImageNet-21k has 21,843


class Mapped(NamedTuple):
    """What became of a file of weights."""

    source: str
    origin: str  # a name of `conversion.ORIGINS`
    filled: int  # arrays of the file that are in the model
    left_out: tuple[str, ...]  # the names of its others
    adaptions: tuple[str, ...]  # what the model does not have as the file has it


class Converted(NamedTuple):
    mapped: Mapped
    bytes: int  # of the file that was written
    equal: int  # arrays of it that were read back and are the model's; 0: a SavedModel, of which outputs were compared
    predictions: tuple[Prediction, ...]  # for each image the likeliest five classes


def convert_file(
    weights: str,
    model_name: str | None,
    output: str | os.PathLike[str],
    *,
    origin: str | None = None,
    average: bool = True,
    classes: int | None = None,
    images: str = "",
    overwrite: bool = False,
) -> Converted:
    """Writes weights of any origin as a file of another kind: the whole of it, or nothing.

    Args:
        weights: a file or folder that `load_weights` takes, or the name of published weights.
        model_name: the network they are of; None: that of the run whose folder `weights` is.
        output: the file to write; its kind follows from its ending, see `writers.WRITERS`.
        origin: as in `load_weights`.
        average: as in `load_weights`.
        classes: of the network; by default those of the file.
        images: what to classify with the weights, as `predictions.find_images` takes it.
        overwrite: whether to replace a file that is there.

    Raises:
        ValueError: unknown ending, network or origin; or the file does not fit the network.
        OSError: there are no such files, there is one at `output`, or it could not be written.
        RuntimeError: what was written is not what the model holds.
    """
    ending = find_ending(output)
    export.check_target(output, overwrite, Path.is_file if ending else export.is_saved_model)
    files = find_images(images)
    path = Path(weights)
    model_name = model_name or _network_of_run(path)
    variant = find_variant(model_name)
    if pretrained.is_name(weights):
        row = pretrained.find(model_name, weights)
        variant, path = row.normalised(variant), pretrained.fetch(row)
    model, mapped = load(variant, path, origin=origin, average=average, classes=classes, name=model_name)
    predictions = tuple(identify(model, variant, files, find_labels(path)))
    equal = write(model, output, overwrite=overwrite)
    return Converted(mapped, export.count_bytes(output), equal, predictions)


def _network_of_run(folder):
    if not RunFolder(folder).is_run():
        raise ValueError(f"{folder} does not say which network its weights are of. Give `model_name`.")
    return make_config(mode="eval", model_dir=str(folder)).model_name


def load(
    variant: Variant,
    source: str | os.PathLike[str],
    *,
    origin: str | None = None,
    average: bool = True,
    classes: int | None = None,
    name: str | None = None,
) -> tuple[keras.Model, Mapped]:
    """Builds the network that a file of weights is of, with its classes or without its top, and fills it.

    Args:
        variant: the row of the network.
        source: as `load_weights` takes it.
        origin: as there.
        average: as there.
        classes: of the network; by default those of the file.
        name: of the model.
    """
    path = find_file(source)
    with open_weights(path, average=average) as arrays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        table = find_origin(arrays, origin)
        classes = classes or _count_classes(arrays, table, path)
        model = make_model(variant, include_top=classes is not None, classes=classes or 1000, name=name)
        taken = set(convert(model, arrays, str(path), origin=origin, other_classes=True))
        left_out = tuple(key for key in arrays if key not in taken)
    adaptions = tuple(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    return model, Mapped(str(path), table.name, len(taken), left_out, adaptions)


def _count_classes(arrays, table, path):
    """What a file says, which could be any number: a classifier is built for it before the rest is read."""
    classes = count_classes(arrays, table)
    if classes is not None and not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"{path} says it is for {classes} classes. Give their number, if that is right: --classes.")
    return classes


def identify(
    model: keras.Model, variant: Variant, files: Sequence[str], names: Sequence[str] | None = None
) -> list[Prediction]:
    """The likeliest five classes of image files, cropped and resized as the variant's authors do in evaluation.

    Raises:
        ValueError: the model has no classifier, or a file is no picture.
    """
    if not files:
        return []
    if len(model.output_shape) != 2:
        raise ValueError(f"{model.name} has no classifier: its weights name no classes of images.")
    classes = model.output_shape[-1]
    names = names if names and len(names) == classes else class_names(classes)
    crop, resize = variant.crop_fraction, variant.interpolation
    found = list(
        predict_files(
            files,
            lambda data: image_for_evaluation(data, variant.resolution, crop_fraction=crop, interpolation=resize),
            lambda pixels: keras.ops.convert_to_numpy(model(pixels, training=False)),
            names,
            batch=8,
        )
    )
    for prediction in found:
        if prediction.fault:
            raise ValueError(f"{prediction.file} {prediction.fault}.")
    return found


def class_names(classes: int) -> list[str]:
    """The names of ImageNet's classes, for 1000 of them or for 1001 with the background; else numbers."""
    return [name for _, name in imagenet_classes(classes)] or [str(number) for number in range(classes)]
