"""Builds the parts of an EfficientNet: each function maps a tensor to a tensor, with keras.applications' layer names.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946; initialisers as in github.com/tensorflow/tpu.
"""

from typing import Any

import keras
from keras import layers

from keras_efficientnet.architectures import BlockSpec, Variant
from keras_efficientnet.layers import BatchNormalization, CondConv2D, DepthwiseCondConv2D

MOMENTUM = 0.99  # of the moving statistics of batch norms


def _kernel_initializer():
    """Returns a new initializer for each layer, so that no two layers get the same values: normal, by fan-out."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _normalize(x, variant, *, name, activation):
    x = BatchNormalization(momentum=MOMENTUM, epsilon=variant.epsilon, name=f"{name}_bn")(x)
    return layers.Activation(activation, name=f"{name}_activation")(x) if activation else x


def _pad(x, kernel, stride, variant, *, name):
    """Pads `x` if needed, and returns it with the padding for its convolution. At stride 1, "same" is symmetric too."""
    if variant.padding == "same" or stride == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"


def convolve(
    x: keras.KerasTensor,
    filters: int,
    variant: Variant,
    *,
    kernel: int,
    name: str,
    stride: int = 1,
    activation: str | None,
    routing: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Applies a convolution without bias, a batch norm and an activation.

    Args:
        x: features, [batch, height, width, channels].
        filters: output channels.
        variant: row of the network, for its padding and its epsilon.
        kernel: side of the window, in pixels.
        name: prefix of the layers `{name}_conv`, `{name}_bn`, `{name}_activation`, and of `{name}_conv_pad` if needed.
        stride: stride, in pixels.
        activation: name in `keras.activations`, or None.
        routing: weights of the experts, [batch, experts], for a kernel that mixes experts.

    Returns:
        Features, [batch, ceil(height / stride), ceil(width / stride), filters].
    """
    x, padding = _pad(x, kernel, stride, variant, name=f"{name}_conv")
    common = {"strides": stride, "padding": padding, "name": f"{name}_conv"}
    if routing is None:
        layer = layers.Conv2D(filters, kernel, use_bias=False, kernel_initializer=_kernel_initializer(), **common)
        x = layer(x)
    else:
        experts = routing.shape[-1]
        layer = CondConv2D(filters, kernel, experts, kernel_initializer=_kernel_initializer(), **common)
        x = layer([x, routing])
    return _normalize(x, variant, name=name, activation=activation)


def filter_channels(
    x: keras.KerasTensor,
    variant: Variant,
    *,
    kernel: int,
    stride: int,
    name: str,
    routing: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Applies a depthwise convolution, a batch norm and an activation; see `convolve`. Layers: `{name}_dwconv`, ..."""
    x, padding = _pad(x, kernel, stride, variant, name=f"{name}_dwconv")
    common = {"strides": stride, "padding": padding, "name": f"{name}_dwconv"}
    if routing is None:
        layer = layers.DepthwiseConv2D(kernel, use_bias=False, depthwise_initializer=_kernel_initializer(), **common)
        x = layer(x)
    else:
        experts = routing.shape[-1]
        x = DepthwiseCondConv2D(kernel, experts, kernel_initializer=_kernel_initializer(), **common)([x, routing])
    return _normalize(x, variant, name=name, activation=variant.activation)


def route(x: keras.KerasTensor, experts: int, *, name: str) -> keras.KerasTensor:
    """Computes the weights of experts from the average of the block's input. All convolutions of a block share them.

    Args:
        x: features, [batch, height, width, channels].
        experts: number of experts.
        name: name of the layers `{name}_pool` and `{name}`.

    Returns:
        Weights, [batch, experts], each between 0 and 1. Source: Yang et al. 2019, arxiv.org/abs/1904.04971.
    """
    x = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    return layers.Dense(experts, activation="sigmoid", name=name)(x)


def squeeze_excite(x: keras.KerasTensor, filters_squeezed: int, *, activation: str, name: str) -> keras.KerasTensor:
    """Scales each channel by a weight computed from the averages of all channels.

    Source: Hu et al. 2017, arxiv.org/abs/1709.01507.

    Args:
        x: features, [batch, height, width, channels].
        filters_squeezed: channels of the hidden layer.
        activation: activation of the hidden layer; name in `keras.activations`.
        name: prefix of the layers, `block2a_se`.

    Returns:
        Features of the same shape.
    """

    def connect(weight, filters, function, step):
        initializer = _kernel_initializer()
        layer = layers.Conv2D(filters, 1, activation=function, kernel_initializer=initializer, name=f"{name}_{step}")
        return layer(weight)

    weight = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    weight = connect(weight, filters_squeezed, activation, "reduce")
    weight = connect(weight, x.shape[-1], "sigmoid", "expand")
    return layers.multiply([x, weight], name=f"{name}_excite")


def add_skip(x: keras.KerasTensor, y: keras.KerasTensor, drop_path_rate: float, *, name: str) -> keras.KerasTensor:
    """Adds the block's input `x` to its output `y`. Training drops `y` for some images (stochastic depth).

    The outputs that remain are divided by 1 - `drop_path_rate`. Source: Huang et al. 2016, arxiv.org/abs/1603.09382.
    """
    if drop_path_rate > 0:
        y = layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.add([x, y], name=f"{name}_add")


def mbconv(
    x: keras.KerasTensor, spec: BlockSpec, variant: Variant, *, drop_path_rate: float = 0.0
) -> keras.KerasTensor:
    """Builds an MBConv block: widen, depthwise convolution, squeeze-and-excite, project; or its fused form.

    A fused block has one full convolution instead of the widening and the depthwise convolution.

    Args:
        x: features, [batch, height, width, spec.filters_in].
        spec: row of the block.
        variant: row of the network, for its padding, epsilon and activation.
        drop_path_rate: probability in [0, 1) that training drops the block for an image.

    Returns:
        Features, [batch, ceil(height / stride), ceil(width / stride), spec.filters_out].

    Source: Sandler et al. 2018, arxiv.org/abs/1801.04381.
    """
    y = x
    common: dict[str, Any] = {"routing": route(x, spec.experts, name=f"{spec.name}_routing") if spec.experts else None}
    widening = common | {"name": f"{spec.name}_expand", "activation": variant.activation}
    if spec.fused:
        y = convolve(y, spec.filters_wide, variant, kernel=spec.kernel, stride=spec.stride, **widening)
    else:
        if spec.widens:
            y = convolve(y, spec.filters_wide, variant, kernel=1, **widening)
        y = filter_channels(y, variant, kernel=spec.kernel, stride=spec.stride, name=spec.name, **common)
    if spec.filters_squeezed:
        y = squeeze_excite(y, spec.filters_squeezed, activation=variant.activation, name=f"{spec.name}_se")
    y = convolve(y, spec.filters_out, variant, kernel=1, activation=None, name=f"{spec.name}_project", **common)
    return add_skip(x, y, drop_path_rate, name=spec.name) if spec.skip else y


def classify(x: keras.KerasTensor, classes: int, *, dropout_rate: float, activation: str | None) -> keras.KerasTensor:
    """Pools, drops out and classifies. Dropout and classifier are float32 under every mixed-precision policy.

    Args:
        x: features, [batch, height, width, channels].
        classes: number of classes.
        dropout_rate: probability in [0, 1) that training drops a channel.
        activation: name in `keras.activations`, or None for logits.

    Returns:
        Scores, float32 [batch, classes].
    """
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if dropout_rate > 0:
        x = layers.Dropout(dropout_rate, dtype="float32", name="top_dropout")(x)
    return layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_out", "uniform"),
        dtype="float32",
        name="predictions",
    )(x)
