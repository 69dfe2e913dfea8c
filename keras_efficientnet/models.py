"""Builds models: a builder for each row of `architectures.VARIANTS`, and functions for their inputs and outputs."""

import csv
import fnmatch
import functools
import inspect
import os
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
from keras_efficientnet.layers import PixelNormalization
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import load_weights, resolve_weights

BACKGROUND = ("background", "background")  # instead of a class's WordNet id and name
# docstring of every builder
BUILDER_DOC = """Builds {variant} as a functional Keras model.

The model takes pixels from 0 to 255, [batch, height, width, 3], and returns class probabilities, [batch, classes].
It normalises them itself: do not divide by 255 and do not call `preprocess_input` before it.
Its layers have the names of keras.applications. Compile, fit and save it like any Keras model.

Args:
    include_top: whether to include pooling, dropout and the classifier. False returns feature maps.
    weights: None for random weights; the name of published weights, "imagenet", see `list_pretrained`; or the path of a
        weights file or a run folder, see `load_weights`.
    input_tensor: Keras tensor to build on instead of a new input, [batch, height, width, channels].
    input_shape: (height, width, channels), each size at least 32, or None for any size. By default the network's
        resolution in RGB, or (None, None, 3) without the top.
    pooling: pooling after the last activation, without the top: None, "avg" or "max".
    classes: number of classes. With published weights, another number than 1000 gives a new classifier.
    classifier_activation: name in `keras.activations`, or None for logits.
    include_preprocessing: whether the model normalises pixels: with the statistics of the named weights, else of the
        network. Grayscale uses their mean; extra channels cycle through RGB. If False, see `preprocess_input`.
    dropout_rate: rate before the classifier, in [0, 1); by default the network's own.
    drop_path_rate: probability in [0, 1) that training skips a block for an image (stochastic depth). The rate
        grows linearly: block i of n, from 0, uses i / n of it.
    name: name of the model.

Returns:
    A `keras.Model`.

Raises:
    ValueError: an argument is out of range, or there are no such weights, or they do not match.
    OSError: there is no such file, or published weights are not in the cache and cannot be downloaded.
"""
BUILDER_EXAMPLE = """
Example:
    >>> from keras_efficientnet import EfficientNetB0
    >>> model = EfficientNetB0(classes=10, input_shape=(64, 64, 3))  # weights="imagenet": fine-tune published weights
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> model.output_shape
    (None, 10)
"""
POOLING = {None: None, "avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}


def make_model(
    variant: Variant,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
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
    """Builds a network from a row of VARIANTS or of your own; see `EfficientNetB0` for all arguments but `variant`.

    Example:
        >>> from keras_efficientnet.architectures import VARIANTS
        >>> from keras_efficientnet.models import make_model
        >>> half_as_wide = VARIANTS["efficientnet-b0"]._replace(width=0.5, resolution=160)
        >>> make_model(half_as_wide, classes=10).input_shape
        (None, 160, 160, 3)
    """
    _check(pooling, classes, dropout_rate, drop_path_rate)
    source = resolve_weights(weights, variant=variant)
    variant, file = source.variant or variant, source.fetch()
    image = _make_input(variant, include_top, input_tensor, input_shape)
    x = _apply_backbone(_normalize(image, variant) if include_preprocessing else image, variant, drop_path_rate)
    if include_top:
        rate = variant.dropout if dropout_rate is None else dropout_rate
        x = classify(x, classes, dropout_rate=rate, activation=classifier_activation)
    elif pooling:
        x = POOLING[pooling](name=f"{pooling}_pool")(x)
    model = keras.Model(_model_inputs(image), x, name=name or "efficientnet")
    if include_preprocessing:
        _check_in_predict(model)
    if file is not None:
        load_weights(model, file)
    return model


def _apply_backbone(x, variant, drop_path_rate):
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


def _model_inputs(image):
    inputs = keras.utils.get_source_inputs(image)
    return inputs[0] if len(inputs) == 1 else inputs


def _normalize(images, variant):
    mean, deviation = pretrained.pixel_statistics(variant, images.shape[-1])
    scale, offset = 1 / deviation, -mean / deviation
    return PixelNormalization(scale.tolist(), offset.tolist(), name="normalization")(images)


def _check_in_predict(model):
    """Lets `predict` check the values of arrays: in its graph, `PixelNormalization` cannot."""

    @functools.wraps(model.predict)
    def predict(x, batch_size=None, *arguments, **keywords):
        if len(getattr(x, "shape", ())) == 4 and "int" not in str(x.dtype):
            model.get_layer("normalization").check(x[: batch_size or 32])
        return type(model).predict(model, x, batch_size, *arguments, **keywords)

    model.predict = predict


def builder(variant_name: str) -> Callable[..., keras.Model]:
    """Makes the builder of one variant: `make_model` with its row, and a name as in keras.applications."""

    @functools.wraps(make_model)
    def build(*arguments, name=None, **keywords):
        return make_model(VARIANTS[variant_name], *arguments, name=name or keras_name(variant_name), **keywords)

    build.__name__ = build.__qualname__ = builder_name(variant_name)
    signature = inspect.signature(make_model)
    _, *others = signature.parameters.values()
    build.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    example = BUILDER_EXAMPLE if variant_name == "efficientnet-b0" else "\nSee `EfficientNetB0` for an example.\n"
    build.__doc__ = BUILDER_DOC.format(variant=variant_name) + example
    return build


def builder_name(variant_name: str) -> str:
    """Returns the name of a variant's builder: `EfficientNetCondConvB0_4E` builds "efficientnet-condconv-b0-4e"."""
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


def create_model(model_name: str, **arguments: Any) -> keras.Model:
    """Builds a model by its name.

    Args:
        model_name: official name, "efficientnet-b0", or timm's, "tf_efficientnet_b0". A dot and a name of published
            weights may follow, "tf_efficientnet_b0.ns_jft_in1k"; they are the model's `weights`.
        **arguments: arguments of the builder; see `EfficientNetB0`.

    Raises:
        ValueError: the name is unknown, weights are given twice, or the builder raises.

    Example:
        >>> from keras_efficientnet import create_model
        >>> create_model("tf_efficientnet_b0", classes=10).name
        'efficientnetb0'
    """
    network, _, weights = model_name.partition(".")
    if weights and arguments.get("weights") is not None:
        raise ValueError(f"{model_name!r} already names weights. Received also: weights={arguments['weights']!r}")
    return BUILDERS[official_name(network)](**arguments | ({"weights": weights} if weights else {}))


def list_models(pattern: str = "*") -> list[str]:
    """Lists the networks whose name, or name in timm, matches a shell pattern: "*b?", "tf_efficientnet_cc*".

    Example:
        >>> from keras_efficientnet import list_models
        >>> list_models("*edgetpu*")
        ['efficientnet-edgetpu-S', 'efficientnet-edgetpu-M', 'efficientnet-edgetpu-L']
    """
    others = {OTHER_NAMES[name] for name in fnmatch.filter(OTHER_NAMES, pattern)}
    return [name for name in VARIANTS if name in others or fnmatch.fnmatchcase(name, pattern)]


def features(model: keras.Model) -> keras.Model:
    """Returns the backbone of a model, for detection and segmentation: the last feature map of each size.

    Args:
        model: built by this package or loaded from its file, with or without a top. The backbone shares its weights.

    Returns:
        A model with the same input and a dictionary of outputs, "P1" to "P5": the outputs of the last blocks at strides
        2, 4, 8, 16 and 32. P`n` is [batch, ceil(height / 2 ** n), ceil(width / 2 ** n), channels].

    Raises:
        ValueError: the model has no blocks of an EfficientNet.

    Example:
        >>> from keras_efficientnet import EfficientNetB0, features
        >>> features(EfficientNetB0(input_shape=(64, 64, 3))).output["P5"].shape
        (None, 2, 2, 320)
    """
    ends: dict[int, Any] = {}
    stride = 2  # of the stem
    for layer in model.layers:
        match = re.fullmatch(r"block\d+[a-z]+_(dwconv|expand_conv|project_bn|add)", layer.name)
        if match and match[1] in ("dwconv", "expand_conv"):
            stride *= np.max(layer.strides)
        elif match:
            ends[int(stride)] = layer.output
    if [*ends] != [2, 4, 8, 16, 32]:
        inner = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        hint = f" Pass {model.name}.get_layer({inner[0]!r})." if inner else ""
        raise ValueError(
            "`model` must be an EfficientNet of this package. "
            f"{model.name} has feature maps at strides {[*ends]}.{hint}"
        )
    return keras.Model(model.input, {f"P{n}": x for n, x in enumerate(ends.values(), 1)}, name=f"{model.name}_features")


def preprocess_input(images: Any, model_name: str = "efficientnet-b0", weights: str | None = None) -> Any:
    """Normalises pixels for a model built with `include_preprocessing=False`, and for no other.

    By default our networks normalise pixels themselves: with this function before them, they are normalised twice, and
    the results are wrong. The function of this name in keras.applications returns its argument.

    Args:
        images: array or tensor of pixels from 0 to 255, [..., height, width, channels], of any type.
        model_name: name of the network.
        weights: name of its published weights, whose pixel statistics may differ from the network's: "advprop". None
            for the statistics of the network.

    Returns:
        (images - mean) / deviation for each channel, in floating point, of the same shape. Grayscale uses the mean of
        the RGB statistics; extra channels cycle through RGB.

    Raises:
        ValueError: the network or the weights are unknown, or the last axis is too long for channels.

    Example:
        >>> import numpy as np
        >>> from keras_efficientnet import preprocess_input
        >>> preprocess_input(np.full((1, 1, 3), 255.0), "efficientnet-lite0")
        array([[[1., 1., 1.]]], dtype=float32)
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


def decode_predictions(probabilities: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Returns the names of the most probable ImageNet classes. Downloads nothing.

    Args:
        probabilities: [batch, 1000]; or [batch, 1001] where class 0 is the background, as the official code trains
            with --num_label_classes=1001. The background is ("background", "background").
        top: number of classes for each image.

    Returns:
        For each image a list of (WordNet id, name, probability), the highest first.

    Raises:
        ValueError: the shape differs.

    Example:
        >>> import numpy as np
        >>> from keras_efficientnet import decode_predictions
        >>> decode_predictions(np.eye(1, 1000, 207), top=1)
        [[('n02099601', 'golden retriever', 1.0)]]
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
    """Returns (WordNet id, name) of the ImageNet classes, in the order of all published classifiers.

    For a `count` of 1001 the background comes first; for any other count than 1000 and 1001 the list is empty.
    """
    text = resources.files("keras_efficientnet").joinpath("data/imagenet_classes.csv").read_text("utf-8")
    classes = [(wordnet_id, name) for wordnet_id, name in csv.reader(text.splitlines())]
    return {len(classes): classes, len(classes) + 1: [BACKGROUND, *classes]}.get(count, [])
