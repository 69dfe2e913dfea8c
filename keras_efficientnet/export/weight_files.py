"""Converts weights files: reads any origin, writes any kind of file, and reports what was converted."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import safetensors.numpy

from keras_efficientnet.architectures import Variant
from keras_efficientnet.evaluation.predictions import Prediction, find_images, predict_files
from keras_efficientnet.export.saved_model import is_saved_model, to_saved_model
from keras_efficientnet.files import check_target, count_bytes, replacing
from keras_efficientnet.models import imagenet_classes, make_model
from keras_efficientnet.preflight import find_ending
from keras_efficientnet.preprocessing import image_for_evaluation
from keras_efficientnet.runs import find_labels
from keras_efficientnet.weights.engine import count_classes
from keras_efficientnet.weights.loading import find_file, resolve_weights
from keras_efficientnet.weights.pairing import Origin, pair_variables
from keras_efficientnet.weights.readers.dispatch import open_weights
from keras_efficientnet.weights.registry import convert, find_origin, recognise, to_keras_applications, to_timm

MAX_CLASSES = 100_000  # of a file whose classes the user did not state; ImageNet-21k has 21,843


class Mapped(NamedTuple):
    """How a weights file was loaded into a model."""

    source: str
    origin: str  # a name of `registry.ORIGINS`
    filled: int  # arrays of the file that are in the model
    left_out: tuple[str, ...]  # names of its other arrays
    adaptations: tuple[str, ...]  # warnings about what differs between file and model


class Converted(NamedTuple):
    """What `convert_file` wrote."""

    mapped: Mapped
    bytes: int  # size of the new file
    equal: int  # arrays that were read back and equal the model's; 0: a SavedModel, whose outputs were compared
    predictions: tuple[Prediction, ...]  # the five most probable classes of each image


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
    """Converts weights of any origin to another kind of file. Writes a complete file, or nothing.

    Args:
        weights: a file or folder that `load_weights` reads, or the name of published weights.
        model_name: the network; None: the network of the run folder `weights`.
        output: path of the new file; its ending selects the kind, see `WRITERS`.
        origin: see `load_weights`.
        average: see `load_weights`.
        classes: number of classes; by default that of the file.
        images: images to classify with the weights, see `predictions.find_images`.
        overwrite: whether to replace an existing file.

    Raises:
        ValueError: the ending, the network or the origin is unknown, or the file does not match the network.
        OSError: a file does not exist, `output` exists, or it cannot be written.
        RuntimeError: the new file does not hold what the model holds.

    Example:
        >>> from keras_efficientnet import EfficientNetB0
        >>> from keras_efficientnet.export.weight_files import convert_file
        >>> EfficientNetB0(classes=2).save_weights("b0.weights.h5")
        >>> converted = convert_file("b0.weights.h5", "efficientnet-b0", "b0.safetensors")
        >>> converted.mapped.filled == converted.equal
        True
    """
    ending = find_ending(output)
    check_target(output, overwrite, Path.is_file if ending else is_saved_model)
    files = find_images(images)
    source = resolve_weights(weights, model_name=model_name)
    if source.variant is None:
        raise ValueError(f"{weights} does not say which network its weights are of. Give `model_name`.")
    path = source.fetch() or Path(weights)
    name = model_name or source.model_name
    model, mapped = load(source.variant, path, origin=origin, average=average, classes=classes, name=name)
    predictions = tuple(identify(model, source.variant, files, find_labels(source.path or path)))
    equal = write(model, output, overwrite=overwrite)
    return Converted(mapped=mapped, bytes=count_bytes(output), equal=equal, predictions=predictions)


def load(
    variant: Variant,
    source: str | os.PathLike[str],
    *,
    origin: str | None = None,
    average: bool = True,
    classes: int | None = None,
    name: str | None = None,
) -> tuple[keras.Model, Mapped]:
    """Builds the network of a weights file, with the file's classes or without a top, and fills it.

    Args:
        variant: row of the network.
        source: path of a file that `load_weights` reads.
        origin: see `load_weights`.
        average: see `load_weights`.
        classes: number of classes; by default that of the file.
        name: name of the model.
    """
    path = find_file(source)
    with open_weights(path, average=average) as arrays, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        table = find_origin(arrays, origin)
        classes = classes or _read_classes(arrays, table, path)
        model = make_model(variant, include_top=classes is not None, classes=classes or 1000, name=name)
        used = set(convert(model, arrays, str(path), origin=origin, other_classes=True))
        left_out = tuple(key for key in arrays if key not in used)
    adaptations = tuple(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    mapped = Mapped(source=str(path), origin=table.name, filled=len(used), left_out=left_out, adaptations=adaptations)
    return model, mapped


def _read_classes(arrays: Mapping[str, Any], table: Origin, path: Path) -> int | None:
    """Returns the number of classes in a file. Limits it: the classifier is built before the file is checked."""
    classes = count_classes(arrays, table)
    if classes is not None and not 1 <= classes <= MAX_CLASSES:
        raise ValueError(f"{path} says it is for {classes} classes. If that is right, give their number: --classes.")
    return classes


def identify(
    model: keras.Model, variant: Variant, files: Sequence[str], names: Sequence[str] | None = None
) -> list[Prediction]:
    """Returns the five most probable classes of image files, cropped and resized as in the variant's evaluation.

    Raises:
        ValueError: the model has no classifier, or a file is not an image.
    """
    if not files:
        return []
    if len(model.output_shape) != 2:
        raise ValueError(f"{model.name} has no classifier, so it cannot name the classes of images.")
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
    """Returns the names of the ImageNet classes for 1000 classes, or 1001 with the background; else numbers."""
    return [name for _, name in imagenet_classes(classes)] or [str(number) for number in range(classes)]


def _write_timm(model, path):
    path.touch()
    mode = path.stat().st_mode  # save_file makes a file that only its owner can read
    safetensors.numpy.save_file(to_timm(model), path, metadata={"format": "pt"})
    path.chmod(mode)


WRITERS: dict[str, Callable[[keras.Model, Path], None]] = {  # by the ending; no ending: a SavedModel
    ".weights.h5": lambda model, path: model.save_weights(path),
    ".keras": lambda model, path: model.save(path),
    ".safetensors": _write_timm,
    ".h5": to_keras_applications,
}


def write(model: keras.Model, output: str | os.PathLike[str], *, overwrite: bool = False) -> int:
    """Writes a model in the format that the ending of the path selects, and compares the file before it is moved there.

    Returns:
        The number of equal arrays; 0 for a SavedModel, whose probabilities are compared.

    Raises:
        ValueError: the ending is unknown, or the format does not support the network.
        OSError: `output` exists and `overwrite` is False, or it cannot be written.
        RuntimeError: the file does not hold what the model holds.
    """
    ending = find_ending(output)
    if not ending:
        to_saved_model(model, output, overwrite=overwrite)
        return 0
    with replacing(output, overwrite, is_ours=Path.is_file) as new:
        file = new.with_name(f"new{ending}")
        try:
            WRITERS[ending](model, file)
        except safetensors.SafetensorError as error:  # for example a full disk
            raise OSError(f"{output} could not be written: {error}") from error
        equal = compare(model, file)
        file.replace(new)
    return equal


def compare(model: keras.Model, file: Path) -> int:
    """Returns the number of arrays in a file; raises RuntimeError unless it has all of the model's, bit for bit."""
    with open_weights(file) as arrays:
        pairs = list(pair_variables(model, recognise(arrays)))
        for pair in pairs:
            ours = keras.ops.convert_to_numpy(pair.variable)
            if pair.key not in arrays or not np.array_equal(pair.to_ours(arrays[pair.key]), ours, equal_nan=True):
                raise RuntimeError(f"{pair.key} in the file differs from {model.name}. Nothing was written.")
    return len(pairs)
