"""Writes a model as a SavedModel, which serves and can be trained without this package.

`tf.saved_model.load` and `hub.load` return a function (inputs, training=False) from pixels, float32 [batch, height,
width, channels] from 0 to 255, to probabilities [batch, classes]. It has `variables`, `trainable_variables` and
`regularization_losses`, as `hub.KerasLayer(path, trainable=True)` needs them, and, with labels, `labels.asset_path`.

The signatures are for TensorFlow Serving and similar servers:

- `serving_default` takes `inputs`, the same pixels.
- `image_bytes` takes `image_bytes`, strings [batch]: each a JPEG, PNG, GIF, BMP or WebP of at most 2**27 pixels, which
  is cropped and resized as in evaluation. A broken image fails the call.

Both give `probabilities`, float32 [batch, classes]; `classes`, int32 [batch], the most probable class; `top_5_classes`,
int32 [batch, 5], `top_5_probabilities` and, with labels, `top_5_labels`, strings: the most probable class first. With
fewer than five classes, all of them are given. A network that ends in its pooling gives only `features`, float32
[batch, n]; logits, embeddings and regressions are only `outputs`.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_efficientnet.export.agreement import POOLING, check_exact, name_outputs
from keras_efficientnet.export.pixels import Reader, find_reader
from keras_efficientnet.export.preparation import (
    check_built,
    check_labels,
    check_model,
    collect_variables,
    suppress_info_logs,
)
from keras_efficientnet.export.signatures import make_call, make_regularization_losses, make_signatures, name_classes
from keras_efficientnet.files import replacing
from keras_efficientnet.runtimes.networks import load_saved_model

ENTRIES = {"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra"}
LABELS = "labels.txt"  # name of the asset


def to_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    read: Reader | None = None,
    feature_vector: bool = False,
    weight_decay: float = 1e-5,
    overwrite: bool = False,
) -> float:
    """Writes a SavedModel with the functions and signatures above; complete or not at all.

    Args:
        model: a classifier, or another model that gives a row of numbers for each image; it may accept images of any
            size.
        path: folder to write.
        labels: class names in order, also stored in `assets/labels.txt`.
        read: decodes the bytes of an image to pixels, float32 [height, width, channels]; by default `find_reader`.
            Without a reader there is no `image_bytes`.
        feature_vector: whether to end at the last pooling, and to accept images of any size.
        weight_decay: of the kernels, in `regularization_losses`; at least 0, by default the official recipe's.
        overwrite: whether to replace an existing SavedModel.

    Returns:
        The largest difference between an output of the file and the model's, on random images.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or it is no SavedModel.
        ValueError: the model does not take images, or another argument is invalid.
        RuntimeError: the file gives other outputs than the model, or some are not finite.
        OSError: writing failed.
    """
    if not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must be at least 0. Received: weight_decay={weight_decay}")
    check_built(model)
    read = read or find_reader(model)
    model = make_features(model) if feature_vector else model
    check_model(model)
    to_outputs = _find_outputs(model, labels)
    height, width, channels = (None, None, model.input_shape[3]) if feature_vector else model.input_shape[1:]
    spec = tf.TensorSpec((None, height, width, channels), tf.float32, name="inputs")
    with replacing(path, overwrite, is_ours=is_saved_model) as new, suppress_info_logs():
        _save(model, new, spec, to_outputs, read=read, labels=labels, weight_decay=weight_decay)
        return check_exact(model, load_saved_model(new), "SavedModel")


def is_saved_model(path: Path) -> bool:
    """Returns whether a folder is empty or has the files of a SavedModel and no others."""
    return path.is_dir() and {file.name for file in path.iterdir()} <= ENTRIES


def make_features(model: keras.Model) -> keras.Model:
    """Returns the model up to its last pooling."""
    layers = model.layers
    ends = [index for index, layer in enumerate(layers) if isinstance(layer, POOLING) and not layer.keepdims]
    if not ends or any(len(layer.output.shape) > 2 for layer in layers[ends[-1] :]):
        raise ValueError(
            f"A feature vector is the output of the last pooling. {model.name} ends in none: give a classifier of "
            "this package, or build the network with include_top=False, pooling='avg'."
        )
    return keras.Model(model.input, layers[ends[-1]].output, name=model.name)


def _find_outputs(model, labels):
    """Returns the function from the numbers of a model to the named outputs of a signature."""
    outputs = name_outputs(model)
    if outputs == "features" and labels is not None:
        raise ValueError(f"`labels` name the classes of a classifier, and {model.name} gives features. Leave them out.")
    check_labels(model, labels)
    if outputs == "probabilities":
        return functools.partial(name_classes, labels=labels)
    return lambda values: {outputs: values}


def _save(model, path, spec, to_outputs, *, read, labels, weight_decay):
    holder = collect_variables(model)
    holder.trainable_variables = [variable.value for variable in model.trainable_variables]
    holder.regularization_losses = make_regularization_losses(model, weight_decay)
    if labels is not None:
        file = path.with_name(LABELS)
        file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        holder.labels = tf.saved_model.Asset(os.fspath(file))
    try:
        holder.__call__ = call = make_call(model, spec)
        tf.saved_model.save(holder, os.fspath(path), make_signatures(call, spec, to_outputs, read))
    except tf.errors.OpError as error:  # for example a full disk
        raise OSError(f"TensorFlow could not write the SavedModel: {error.message}") from error
