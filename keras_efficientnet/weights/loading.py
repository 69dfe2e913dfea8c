"""Finds the weights that a user names, and loads them into a model."""

import os
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_efficientnet.architectures import VARIANTS, Variant, find_variant, keras_name
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.recipes import find_variant_of, make_config
from keras_efficientnet.runs import RunFolder, find_run
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.readers.dispatch import open_weights
from keras_efficientnet.weights.registry import convert


class WeightsSource(NamedTuple):
    """Weights that a user named, and the network to build for them."""

    model_name: str | None  # official name of the network; None: unknown
    variant: Variant | None  # its row, with the pixel statistics that the weights were trained with; None: unknown
    published: pretrained.Pretrained | None = None  # row of published weights
    path: Path | None = None  # path that the user gave instead

    def fetch(self) -> Path | None:
        """Returns the file to read, after downloading published weights; None if the user named no weights.

        Raises:
            ConnectionError: published weights are not in the cache and cannot be fetched.
            ValueError: the path is a run folder without a checkpoint.
        """
        if self.published:
            return pretrained.fetch(self.published)
        return self.path and find_file(self.path)


def resolve_weights(
    weights: str | os.PathLike[str] | None, *, model_name: str | None = None, variant: Variant | None = None
) -> WeightsSource:
    """Finds the network and the source of weights. Downloads nothing before `fetch`.

    Args:
        weights: the name of published weights, the path of a file or of a run folder, or None.
        model_name: the network; by default the one whose row is `variant`, else the one that `weights` names by itself:
            a run folder or its `model.keras`, or timm's full name of published weights.
        variant: the row of the network, with changes of your own; by default the row of `model_name`.

    Raises:
        ValueError: there is no such network, or it has no such published weights.
    """
    run = _find_options(weights) if model_name is None and variant is None else None
    if run:
        model_name, variant = run.model_name, find_variant_of(run)
    if model_name is None:
        model_name = _model_name_of(variant) if variant else pretrained.model_name_in(weights)
    if variant is None and model_name is not None:
        variant = find_variant(model_name)
    if not pretrained.is_name(weights):
        return WeightsSource(model_name, variant, path=None if weights is None else Path(weights))
    if model_name is None:
        if variant is None:
            raise ValueError(f"{weights!r} does not say which network its weights are of. Give `model_name`.")
        raise ValueError(
            f"`weights` must be None or the path of a file for a network of your own. Received: {weights!r}"
        )
    row = pretrained.find(model_name, str(weights))
    return WeightsSource(model_name, variant and row.normalised(variant), published=row)


def _model_name_of(variant):
    return next((name for name, row in VARIANTS.items() if row == variant), None)


def _find_options(weights) -> TrainConfig | None:
    """Returns the options of the run if `weights` is a run folder or its `model.keras`."""
    run = None if weights is None or pretrained.is_name(weights) else find_run(weights)
    return make_config(mode="eval", model_dir=str(run.path)) if run else None


def load_weights(
    model: keras.Model,
    source: str | os.PathLike[str],
    *,
    origin: str | None = None,
    average: bool = True,
    other_classes: bool = False,
) -> None:
    """Loads weights into a model: every variable, or none. Runs nothing that is in a file.

    Args:
        model: built by this package.
        source: one of

            - a `.weights.h5` or `.keras` file of this package, or a run folder: loads the checkpoint that evaluation
              uses;
            - a `.safetensors`, `.pth` or `.bin` file of timm, torchvision or lukemelas's efficientnet_pytorch;
            - a TensorFlow checkpoint of the official code;
            - a `.h5` or `.weights.h5` file of keras.applications, or a keras-hub preset;
            - the name of published weights, see `list_pretrained`: "noisy-student" if the model has the name that its
              builder gives it, else timm's full name, "tf_efficientnet_b0.ns_jft_in1k". They are downloaded once.

            Weights of other programs also load into a model with other channels or classes, with a warning. Prefixes
            of wrappers ("module.") and of outer models are removed. Layers that are not of an EfficientNet, such as a
            head of your own, are left out, with a warning.
        origin: program that wrote the weights: "timm", "torchvision", "lukemelas", "tf1", "keras-hub",
            "keras.applications" or "ours". By default recognised from the names in the file.
        average: whether to prefer averaged weights to trained weights, where the file holds both.
        other_classes: whether a file of this package with another number of classes, or any file without a classifier,
            may leave the model's classifier unchanged.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: published weights are not in the cache and cannot be fetched.
        ValueError: the file is damaged, or does not match the model; the message lists the differences.

    Example:
        >>> from keras_efficientnet import EfficientNetB0, load_weights
        >>> EfficientNetB0(weights=None, classes=3).save_weights("b0.weights.h5")
        >>> load_weights(EfficientNetB0(weights=None, classes=3), "b0.weights.h5")
    """
    needs_network = pretrained.is_name(source) and source not in pretrained.KEYS
    resolved = resolve_weights(source, model_name=_model_name_like(model, source) if needs_network else None)
    if resolved.published:
        _check_statistics(model, resolved.published, str(source))
    path = resolved.fetch() or Path(source)
    with open_weights(path, average=average) as arrays:
        convert(model, arrays, str(path), origin=origin, other_classes=other_classes)


def _model_name_like(model, weights):
    """Returns the network whose builder gives its models the name of `model`."""
    for model_name in VARIANTS:
        if keras_name(model_name) == model.name:
            return model_name
    raise ValueError(
        f"{weights!r} is not a file. As a name of published weights it needs a model with the name of its builder, "
        f"'efficientnetb0', or timm's full name: 'tf_efficientnet_b0.ns_jft_in1k'. Received: {model.name!r}"
    )


def _check_statistics(model, row, name):
    """Raises ValueError if the model normalises pixels, and not as published weights were trained."""
    own = next((layer for layer in model.layers if layer.name == "normalization"), None)
    if own is None:
        return
    mean, deviation = pretrained.pixel_statistics(row, model.input_shape[-1])
    if not (np.allclose(own.scale, 1 / deviation) and np.allclose(own.offset, -mean / deviation)):
        raise ValueError(
            f"The weights {row.key} were trained on pixels with mean {row.mean} and deviation {row.deviation}; "
            f"{model.name} normalises otherwise. Build it with their name: weights={name!r}."
        )


def find_file(source: str | os.PathLike[str]) -> Path:
    """Returns the path that `open_weights` reads: a run folder's checkpoint, else the path itself.

    Raises:
        ValueError: the run has no checkpoint.
    """
    path = Path(source)
    run, parent = RunFolder(path), RunFolder(path.parent)
    if parent.is_run() and path == parent.checkpoints:
        return Path(parent.latest_checkpoint() or path)
    return _find_in_run(run) if run.is_run() and not (path / "model.weights.h5").is_file() else path


def _find_in_run(run):
    """Returns the checkpoint of a run that evaluation uses, else its exported model."""
    if make_config(mode="eval", model_dir=str(run.path)).prefers_best:
        return Path(run.best_checkpoint())
    checkpoint = run.latest_checkpoint()
    if checkpoint:
        return Path(checkpoint)
    if run.model.is_file():
        return run.model
    raise ValueError(f"The run in {run.path} has neither a checkpoint nor a {run.model.name}. Train it first.")
