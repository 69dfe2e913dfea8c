"""Finds how images become pixels for a model: from the options of its run, else from the name of its network."""

import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_efficientnet.architectures import VARIANTS, Variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.preprocessing import image_for_evaluation, resampling
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import find_run

Reader = Callable[[tf.Tensor], tf.Tensor]  # bytes of an image -> pixels, float32 [height, width, 3], from 0 to 255
NORMALIZING = (keras.layers.Rescaling, keras.layers.Normalization)


def find_reader(model: keras.Model, run: str | os.PathLike[str] | None = None) -> Reader | None:
    """Returns the function that decodes, crops and resizes an image as in evaluation.

    Args:
        model: its name, or that of the network in it, tells the resizing of its authors; bicubic for unknown names.
        run: folder of the run, or its exported model; its options say how to resize.

    Returns:
        A function from the bytes of a JPEG, PNG, GIF or BMP to pixels, float32 [size, size, 3]. None if the pixels are
        unknown: the model does not take square RGB images of one size, or does not normalize them itself.

    Raises:
        ValueError: the options of the run are incomplete.
    """
    shapes = [tensor.shape for tensor in model.inputs] if model.built else []
    size = shapes[0][1] if shapes and len(shapes[0]) == 4 else None
    if size is None or shapes != [(None, size, size, 3)] or not _normalizes(model):
        return None
    options = find_resampling(model, run)
    return lambda data: image_for_evaluation(data, size, **options)


def find_resampling(model: keras.Model, run: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Returns how images are cropped and resized for a model: keyword arguments of `image_for_evaluation`.

    Arguments and errors are those of `find_reader`.
    """
    if folder := find_run(run):
        config = make_config(mode="eval", model_dir=str(folder.path))
        names = [config.model_name]
    else:
        config = TrainConfig()
        names = [model.name, *(layer.name for layer in model.layers if isinstance(layer, keras.Model))]
    variant = _find_variant(names)
    return resampling(config, variant._replace(resolution=model.inputs[0].shape[1] or variant.resolution))


def _find_variant(names) -> Variant:
    """Returns the variant of the first known name, ignoring case and hyphens, which Keras does not allow everywhere."""

    def letters(name):
        return name.replace("-", "").replace("_", "").lower()

    rows = {letters(name): variant for name, variant in VARIANTS.items()}
    return next((rows[letters(name)] for name in names if letters(name) in rows), VARIANTS["efficientnet-b0"])


def _normalizes(model):
    return any(
        isinstance(layer, NORMALIZING) or (isinstance(layer, keras.Model) and _normalizes(layer))
        for layer in model.layers
    )
