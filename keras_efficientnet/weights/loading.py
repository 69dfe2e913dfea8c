"""Files of weights, or published ones, -> a model: all of it or nothing."""

import os
import pathlib

import keras
import numpy as np

from keras_efficientnet.architectures import VARIANTS, keras_name
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.readers.dispatch import open_weights
from keras_efficientnet.weights.registry import convert


def load_weights(
    model: keras.Model,
    source: str,
    *,
    origin: str | None = None,
    average: bool = True,
    other_classes: bool = False,
) -> None:
    """Fills a model from a file. A file that does not fit leaves the model as it was. Nothing in a file is run.

    Args:
        model: built by this package.
        source: path of a `.weights.h5` or `.keras` file of this package, or of a run's folder, whose checkpoint is the
            one that evaluation takes; of timm's, torchvision's or lukemelas's weights, `.safetensors`, `.pth` or
            `.bin`; of a checkpoint of the official code; of a `.h5` or `.weights.h5` file of keras.applications; of a
            keras-hub preset. Those of others also fit other channels and classes: see `conversion.convert`. Or the
            name of published weights, "noisy-student" for a model with the name that its builder gives it, else both
            of timm's, "tf_efficientnet_b0.ns_jft_in1k"; they come as `pretrained.fetch` says.
        origin: whose weights they are: "timm", "torchvision", "lukemelas", "tf1", "keras-hub", "keras.applications" or
            "ours". By default the names in the file tell it.
        average: whether to take the averaged weights, where there are any, and not the trained ones.
        other_classes: whether a file of this package with another number of classes may leave the model's classifier
            as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: published weights are not in the cache and could not be fetched.
        ValueError: it is no such file, or does not fit the model; the message names what is missing or differs.
    """
    path = _fetch(model, source) if pretrained.is_name(source) else find_file(source)
    with open_weights(path, average=average) as arrays:
        convert(model, arrays, str(path), origin=origin, other_classes=other_classes)


def _fetch(model, name):
    """The file of published weights, if the model normalises pixels as they were trained on, or not at all."""
    network = next((variant for variant in VARIANTS if keras_name(variant) == model.name), None)
    row = pretrained.KEYS.get(name) or (network and pretrained.find(network, name))
    if row is None:
        raise ValueError(
            f"{name!r} is no file. As a name of published weights it needs a model with the name of its builder, "
            f"'efficientnetb0', or both of timm's names: 'tf_efficientnet_b0.ns_jft_in1k'. Received: {model.name!r}"
        )
    if _normalises_otherwise(model, row):
        raise ValueError(
            f"The weights {row.key} were trained on pixels with mean {row.mean} and deviation {row.deviation}, which "
            f"{model.name} does not have in it. Build it with their name: weights={name!r}."
        )
    return pretrained.fetch(row)


def _normalises_otherwise(model, row):
    own = next((layer for layer in model.layers if layer.name == "normalization"), None)
    if own is None:
        return False
    mean, deviation = pretrained.pixel_statistics(row, model.input_shape[-1])
    return not (np.allclose(own.scale, 1 / deviation) and np.allclose(own.offset, -mean / deviation))


def find_file(source: str | os.PathLike[str]) -> pathlib.Path:
    """What `readers.open_weights` takes: in the folder of a run its checkpoint, else the path itself.

    Raises:
        ValueError: the run has no checkpoint.
    """
    path = pathlib.Path(source)
    run = RunFolder(path)
    return _find_in_run(run) if run.is_run() and not (path / "model.weights.h5").is_file() else path


def _find_in_run(folder):
    """The checkpoint of a run that evaluation takes; its `model.keras`, where it has none."""
    if make_config(mode="eval", model_dir=str(folder.path)).takes_best:
        return pathlib.Path(folder.best_checkpoint())
    if folder.has_checkpoints():
        return folder.checkpoints
    if folder.model.is_file():
        return folder.model
    raise ValueError(f"The run in {folder.path} has neither a checkpoint nor a model.keras. Train it first.")
