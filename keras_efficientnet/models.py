"""The public builders: one for each row of `architectures.VARIANTS`, all made from the row."""

import csv
import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_efficientnet.architectures import (
    OTHER_NAMES,
    TOTAL_STRIDE,
    VARIANTS,
    Variant,
    blocks,
    find_variant,
    head_filters,
    keras_name,
    official_name,
    stem_filters,
)
from keras_efficientnet.blocks import classify, convolve, mbconv
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import load_weights

BACKGROUND = ("background", "background")  # stands where a class has its WordNet id and its name
POOLING = {None: None, "avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}


def make_model(
    variant: Variant,
    include_top: bool = True,
    weights: str | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    include_preprocessing: bool = True,
    dropout_rate: float | None = None,
    drop_path_rate: float = 0.2,
    *,
    name: str | None = None,
) -> keras.Model:
    """Builds the network of a row of the table: a flat functional model with the layer names of keras.applications.

    Args:
        variant: the row; may be one of your own.
        include_top: whether pooling, dropout and classifier are part of it.
        weights: None, or the path of a file: see `load_weights`; or else a name, "imagenet": see `list_pretrained`.
        input_tensor: tensor of another model's graph to build on, [batch, height, width, channels].
        input_shape: (height, width, channels), each size at least 32, or None for any. By default the variant's
            resolution in RGB, and (None, None, 3) without the top.
        pooling: without the top, what follows the last activation: None, "avg" or "max".
        classes: outputs of the classifier.
        classifier_activation: name in `keras.activations`; None for logits.
        include_preprocessing: whether it takes pixels from 0 to 255 and normalises them, as named weights want it or
            else the variant; without it see `preprocess_input`. One channel takes the average of three, more in turn.
        dropout_rate: before the classifier, in [0, 1); the variant's own by default.
        drop_path_rate: chance in [0, 1) that training skips the last block for an image; of block i of n, i / n of it.
        name: of the model.

    Raises:
        ValueError: an argument out of its range, or weights that do not exist or fit.
        OSError: there is no such file of weights, or named ones are not in the cache and could not be fetched.
    """
    _check(pooling, classes, dropout_rate, drop_path_rate)
    variant, weights = _fetch_weights(variant, weights) if pretrained.is_name(weights) else (variant, weights)
    image = _make_input(variant, include_top, input_tensor, input_shape)
    x = _extract(_normalize(image, variant) if include_preprocessing else image, variant, drop_path_rate)
    if include_top:
        rate = variant.dropout if dropout_rate is None else dropout_rate
        x = classify(x, classes, dropout_rate=rate, activation=classifier_activation)
    elif pooling:
        x = POOLING[pooling](name=f"{pooling}_pool")(x)
    model = keras.Model(_sources(image), x, name=name or "efficientnet")
    if weights is not None:
        load_weights(model, weights)
    return model


def _fetch_weights(variant, name):
    """The variant with the mean and deviation of published weights, and the path of their file."""
    model_name = next((known for known, row in VARIANTS.items() if row == variant), None)
    if model_name is None:
        raise ValueError(f"`weights` must be None or the path of a file for a network of your own. Received: {name!r}")
    row = pretrained.find(model_name, name)
    return row.normalised(variant), pretrained.fetch(row)


def _extract(x, variant, drop_path_rate):
    common = {"variant": variant, "activation": variant.activation}
    x = convolve(x, stem_filters(variant), kernel=3, stride=2, name="stem", **common)
    specs = blocks(variant)
    for index, spec in enumerate(specs):
        x = mbconv(x, spec, variant, drop_path_rate=drop_path_rate * index / len(specs))
    return convolve(x, head_filters(variant), kernel=1, name="top", **common)


def _check(pooling, classes, dropout_rate, drop_path_rate):
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "The images must be [batch, height, width, channels]. Received: "
            f"image_data_format={keras.config.image_data_format()!r}. "
            'Call keras.config.set_image_data_format("channels_last") first.'
        )
    if pooling not in POOLING:
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}")
    if classes < 1:
        raise ValueError(f"`classes` must be at least 1. Received: classes={classes}")
    for key, rate in (("dropout_rate", dropout_rate), ("drop_path_rate", drop_path_rate)):
        if rate is not None and not 0 <= rate < 1:
            raise ValueError(f"`{key}` must be in [0, 1). Received: {key}={rate}")


def _make_input(variant, include_top, input_tensor, input_shape):
    if input_tensor is not None:
        shape = tuple(input_tensor.shape[1:])
    else:
        side = variant.resolution if include_top else None
        shape = (side, side, 3) if input_shape is None else tuple(input_shape)
    if len(shape) != 3 or not shape[2] or any(size is not None and size < TOTAL_STRIDE for size in shape[:2]):
        raise ValueError(
            "The input must be (height, width, channels) with height and width at least "
            f"{TOTAL_STRIDE} (the total stride) or None for any, and channels 1 or more. Received: {shape}"
        )
    if input_tensor is None:
        return keras.Input(shape, name="image")
    return input_tensor if keras.backend.is_keras_tensor(input_tensor) else keras.Input(tensor=input_tensor)


def _sources(image):
    sources = keras.utils.get_source_inputs(image)
    return sources[0] if len(sources) == 1 else sources


def _normalize(images, variant):
    mean, deviation = pretrained.pixel_statistics(variant, images.shape[-1])
    scale, offset = 1 / deviation, -mean / deviation
    return layers.Rescaling(scale.tolist(), offset.tolist(), name="normalization")(images)


def builder(variant_name: str) -> Callable[..., keras.Model]:
    """Makes the builder of one variant: `make_model` with its row, and a name as in keras.applications."""

    @functools.wraps(make_model)
    def build(*arguments, name=None, **keywords):
        return make_model(VARIANTS[variant_name], *arguments, name=name or keras_name(variant_name), **keywords)

    build.__name__ = build.__qualname__ = builder_name(variant_name)
    signature = inspect.signature(make_model)
    _, *others = signature.parameters.values()
    build.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    build.__doc__ = (make_model.__doc__ or "").replace("the network of a row of the table", variant_name)
    build.__doc__ = re.sub(r" *variant: .*\n", "", build.__doc__)
    return build


def builder_name(variant_name: str) -> str:
    """The builder's name: "efficientnet-condconv-b0-4e" is built by `EfficientNetCondConvB0_4E`."""
    words = {"condconv": "CondConv", "edgetpu": "EdgeTPU", "4e": "_4E", "8e": "_8E"}
    return "EfficientNet" + "".join(words.get(word, word.capitalize()) for word in variant_name.split("-")[1:])


BUILDERS = {name: builder(name) for name in VARIANTS}
EfficientNetB0 = BUILDERS["efficientnet-b0"]
EfficientNetB1 = BUILDERS["efficientnet-b1"]
EfficientNetB2 = BUILDERS["efficientnet-b2"]
EfficientNetB3 = BUILDERS["efficientnet-b3"]
EfficientNetB4 = BUILDERS["efficientnet-b4"]
EfficientNetB5 = BUILDERS["efficientnet-b5"]
EfficientNetB6 = BUILDERS["efficientnet-b6"]
EfficientNetB7 = BUILDERS["efficientnet-b7"]
EfficientNetB8 = BUILDERS["efficientnet-b8"]
EfficientNetL2 = BUILDERS["efficientnet-l2"]
EfficientNetCondConvB0_4E = BUILDERS["efficientnet-condconv-b0-4e"]
EfficientNetCondConvB0_8E = BUILDERS["efficientnet-condconv-b0-8e"]
EfficientNetCondConvB1_8E = BUILDERS["efficientnet-condconv-b1-8e"]
EfficientNetB1Pruned = BUILDERS["efficientnet-b1-pruned"]
EfficientNetB2Pruned = BUILDERS["efficientnet-b2-pruned"]
EfficientNetB3Pruned = BUILDERS["efficientnet-b3-pruned"]
EfficientNetLite0 = BUILDERS["efficientnet-lite0"]
EfficientNetLite1 = BUILDERS["efficientnet-lite1"]
EfficientNetLite2 = BUILDERS["efficientnet-lite2"]
EfficientNetLite3 = BUILDERS["efficientnet-lite3"]
EfficientNetLite4 = BUILDERS["efficientnet-lite4"]
EfficientNetEdgeTPUS = BUILDERS["efficientnet-edgetpu-S"]
EfficientNetEdgeTPUM = BUILDERS["efficientnet-edgetpu-M"]
EfficientNetEdgeTPUL = BUILDERS["efficientnet-edgetpu-L"]
EfficientNetB0Torch = BUILDERS["efficientnet-b0-torch"]
EfficientNetB1Torch = BUILDERS["efficientnet-b1-torch"]
EfficientNetB2Torch = BUILDERS["efficientnet-b2-torch"]
EfficientNetB3Torch = BUILDERS["efficientnet-b3-torch"]
EfficientNetB4Torch = BUILDERS["efficientnet-b4-torch"]
EfficientNetB5Torch = BUILDERS["efficientnet-b5-torch"]
EfficientNetB6Torch = BUILDERS["efficientnet-b6-torch"]
EfficientNetB7Torch = BUILDERS["efficientnet-b7-torch"]


def create_model(model_name: str, **arguments) -> keras.Model:
    """Builds a model by its name.

    Args:
        model_name: the official name, "efficientnet-b0", or timm's, "tf_efficientnet_b0"; with a point and a name of
            published weights behind it, "tf_efficientnet_b0.ns_jft_in1k", these are its `weights`.
        **arguments: those of the builders; see `EfficientNetB0`.

    Raises:
        ValueError: unknown name, weights asked for twice, or as the builders.
    """
    network, _, weights = model_name.partition(".")
    if weights and arguments.get("weights") is not None:
        raise ValueError(f"{model_name!r} already names weights. Received also: weights={arguments['weights']!r}")
    return BUILDERS[official_name(network)](**arguments | ({"weights": weights} if weights else {}))


def list_models(pattern: str = "*") -> list[str]:
    """The networks whose name, or name in timm, `pattern` matches as in a shell: "*b?", "tf_efficientnet_cc*"."""
    others = {OTHER_NAMES[name] for name in fnmatch.filter(OTHER_NAMES, pattern)}
    return [name for name in VARIANTS if name in others or fnmatch.fnmatchcase(name, pattern)]


def features(model: keras.Model) -> keras.Model:
    """The network without its head, for detection and segmentation: the last map of each size.

    Args:
        model: built by this package or loaded from its file, with or without a top; the result shares its weights.

    Returns:
        A model from the same input to a dictionary of "P1" to "P5", the outputs of the last blocks at strides 2, 4, 8,
        16 and 32: P`n` is [batch, ceil(height / 2 ** n), ceil(width / 2 ** n), channels].

    Raises:
        ValueError: the model has no blocks of an EfficientNet.
    """
    ends: dict[int, Any] = {}
    stride = 2  # of the stem
    for layer in model.layers:
        place = re.fullmatch(r"block\d+[a-z]+_(dwconv|expand_conv|project_bn|add)", layer.name)
        if place and place[1] in ("dwconv", "expand_conv"):
            stride *= np.max(layer.strides)
        elif place:
            ends[int(stride)] = layer.output
    if [*ends] != [2, 4, 8, 16, 32]:
        inner = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = f" Give {model.name}.get_layer({inner[0]!r})." if inner else ""
        raise ValueError(
            f"`model` must be an EfficientNet of this package. {model.name} has maps at strides {[*ends]}.{hint}"
        )
    return keras.Model(model.input, {f"P{n}": x for n, x in enumerate(ends.values(), 1)}, name=f"{model.name}_features")


def preprocess_input(images, model_name: str = "efficientnet-b0", weights: str | None = None):
    """Normalises pixels for a network built with `include_preprocessing=False`.

    Args:
        images: values from 0 to 255, [..., height, width, channels]; array or tensor of any type.
        model_name: the network they are for.
        weights: the name of its published weights, which may have been trained on other pixels than the network's own:
            "advprop". None for those of the network.

    Returns:
        (images - mean) / deviation of those pixels, channel by channel, in floating point; same shape. One
        channel takes the average of the three of RGB, more than three take them in turn.

    Raises:
        ValueError: unknown model or weights, or the last axis is too long for channels.
    """
    if images.shape[-1] >= TOTAL_STRIDE:
        raise ValueError(f"`images` must be [..., height, width, channels]. Received: shape={tuple(images.shape)}")
    source = find_variant(model_name) if weights is None else pretrained.find(model_name, weights)
    mean, deviation = pretrained.pixel_statistics(source, images.shape[-1])
    if isinstance(images, np.ndarray):
        return (images.astype("float32") - mean.astype("float32")) / deviation.astype("float32")
    pixels = keras.ops.cast(images, keras.config.floatx())
    return (pixels - keras.ops.convert_to_tensor(mean, pixels.dtype)) / keras.ops.convert_to_tensor(
        deviation, pixels.dtype
    )


def decode_predictions(probabilities, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The names of the likeliest of the 1000 ImageNet classes. Needs no download.

    Args:
        probabilities: [batch, 1000]; or [batch, 1001] of a network whose class 0 is the background, as the official
            code trains with --num_label_classes=1001, which is then named ("background", "background").
        top: how many to name for each image.

    Returns:
        For each image (WordNet id, name, score), the best first.

    Raises:
        ValueError: the shape is another.
    """
    scores = np.asarray(keras.ops.convert_to_numpy(probabilities))
    classes = imagenet_classes(scores.shape[1]) if scores.ndim == 2 else []
    if not classes:
        raise ValueError(
            "`probabilities` must be [batch, 1000], of a network with the ImageNet classes, or [batch, 1001] with the "
            f"background before them. Received: shape={scores.shape}"
        )
    best = np.argsort(-scores, axis=1)[:, :top]
    return [[(*classes[index], float(row[index])) for index in order] for row, order in zip(scores, best, strict=True)]


def imagenet_classes(count: int = 1000) -> list[tuple[str, str]]:
    """(WordNet id, name) of the 1000 classes, in the order of every published classifier.

    Of a classifier for 1001 the background comes before them; of one for any other number none is known.
    """
    text = resources.files("keras_efficientnet").joinpath("data/imagenet_classes.csv").read_text("utf-8")
    classes = [(wordnet_id, name) for wordnet_id, name in csv.reader(text.splitlines())]
    return {len(classes): classes, len(classes) + 1: [BACKGROUND, *classes]}.get(count, [])
