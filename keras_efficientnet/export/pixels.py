"""What a run, or a network's name, says beside the weights: the classes' names, and how pictures become pixels."""

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

Reader = Callable[[tf.Tensor], tf.Tensor]  # bytes of a picture -> pixels, float32 [height, width, 3], from 0 to 255
NORMALISING = (keras.layers.Rescaling, keras.layers.Normalization)


def find_reader(model: keras.Model, path: str | os.PathLike[str] | None = None) -> Reader | None:
    """How a picture becomes the pixels that a model takes: cropped and resized as in evaluation.

    Args:
        model: its name, or that of the network in it, tells how its authors did; bicubic if it tells nothing.
        path: of the folder of a run, or of its `model.keras`: the options of the run then say how.

    Returns:
        A function from the bytes of a JPEG, PNG, GIF or BMP to pixels, float32 [size, size, 3]. None where nobody can
        tell: the model takes other than square RGB images of one size, or does not normalise them itself.

    Raises:
        ValueError: the options of the run are damaged.
    """
    shapes = [tensor.shape for tensor in model.inputs] if model.built else []
    size = shapes[0][1] if shapes and len(shapes[0]) == 4 else None
    if size is None or shapes != [(None, size, size, 3)] or not _normalises(model):
        return None
    options = find_resampling(model, path)
    return lambda data: image_for_evaluation(data, size, **options)


def find_resampling(model: keras.Model, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """How pictures are cropped and resized for a model: keyword arguments of `image_for_evaluation`.

    Arguments and errors as in `find_reader`.
    """
    if folder := find_run(path):
        config = make_config(mode="eval", model_dir=os.fspath(folder.path))
        names = [config.model_name]
    else:
        config = TrainConfig()
        names = [model.name, *(layer.name for layer in model.layers if isinstance(layer, keras.Model))]
    variant = _find_variant(names)
    return resampling(config, variant._replace(resolution=model.inputs[0].shape[1] or variant.resolution))


def _find_variant(names) -> Variant:
    """The row of the first name that has one, however it is spelt: Keras allows no hyphens in some names."""

    def letters(name):
        return name.replace("-", "").replace("_", "").lower()

    rows = {letters(name): variant for name, variant in VARIANTS.items()}
    return next((rows[letters(name)] for name in names if letters(name) in rows), VARIANTS["efficientnet-b0"])


def _normalises(model):
    return any(
        isinstance(layer, NORMALISING) or (isinstance(layer, keras.Model) and _normalises(layer))
        for layer in model.layers
    )
