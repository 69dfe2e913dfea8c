"""The pieces of an EfficientNet: tensor in, tensor out. Layer names are those of keras.applications.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946; initialisers as in github.com/tensorflow/tpu.
"""

from typing import Any

import keras
from keras import layers

from keras_efficientnet.architectures import BlockSpec, Variant
from keras_efficientnet.layers import BatchNormalization, CondConv2D, DepthwiseCondConv2D

MOMENTUM = 0.99  # of batch norm's moving statistics


def _kernel_initializer():
    """A normal distribution by fan-out, not truncated; new for each layer, so that no two draw the same values."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _normalize(x, variant, *, name, activation):
    x = BatchNormalization(momentum=MOMENTUM, epsilon=variant.epsilon, name=f"{name}_bn")(x)
    return layers.Activation(activation, name=f"{name}_activation")(x) if activation else x


def _pad(x, kernel, stride, variant, *, name):
    """Returns `x` and the padding that its convolution is to do itself. At stride 1 TensorFlow's is symmetric too."""
    if variant.padding == "same" or stride == 1:
        return x, "same"
    return layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"


def convolve(
    x, filters: int, variant: Variant, *, kernel: int, name: str, stride: int = 1, activation: str | None, routing=None
):
    """Convolution without bias, batch norm, activation.

    Args:
        x: features, [batch, height, width, channels].
        filters: channels put out.
        variant: the network's row: its padding at strides and its epsilon.
        kernel: side of the window, in pixels.
        name: of the layers: `{name}_conv`, `{name}_bn`, `{name}_activation`, and `{name}_conv_pad` if there is one.
        stride: in pixels.
        activation: name in `keras.activations`, or None.
        routing: weights of the experts, [batch, experts], if the kernel is a mixture of several.

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


def filter_channels(x, variant: Variant, *, kernel: int, stride: int, name: str, routing=None):
    """Filters each channel alone; arguments and shapes as in `convolve`, layers `{name}_dwconv` and so on."""
    x, padding = _pad(x, kernel, stride, variant, name=f"{name}_dwconv")
    common = {"strides": stride, "padding": padding, "name": f"{name}_dwconv"}
    if routing is None:
        layer = layers.DepthwiseConv2D(kernel, use_bias=False, depthwise_initializer=_kernel_initializer(), **common)
        x = layer(x)
    else:
        experts = routing.shape[-1]
        x = DepthwiseCondConv2D(kernel, experts, kernel_initializer=_kernel_initializer(), **common)([x, routing])
    return _normalize(x, variant, name=name, activation=variant.activation)


def route(x, experts: int, *, name: str):
    """Weighs the experts by what the block's input is on average: one vector for all convolutions of the block.

    Args:
        x: features, [batch, height, width, channels].
        experts: how many there are.
        name: of the layers: `{name}_pool`, `{name}`.

    Returns:
        Weights between 0 and 1, each by itself, [batch, experts]. Source: Yang et al. 2019, arxiv.org/abs/1904.04971.
    """
    x = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    return layers.Dense(experts, activation="sigmoid", name=name)(x)


def squeeze_excite(x, filters_squeezed: int, *, activation: str, name: str):
    """Weighs each channel by what all channels are on average. Source: Hu et al. 2017, arxiv.org/abs/1709.01507.

    Args:
        x: features, [batch, height, width, channels].
        filters_squeezed: channels of the layer between.
        activation: of the layer between; name in `keras.activations`.
        name: prefix of the layers, `block2a_se`.

    Returns:
        Features of the same shape.
    """
    weight = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    for filters, function, step in (
        (filters_squeezed, activation, "reduce"),
        (x.shape[-1], "sigmoid", "expand"),
    ):
        weight = layers.Conv2D(
            filters,
            1,
            activation=function,
            kernel_initializer=_kernel_initializer(),
            name=f"{name}_{step}",
        )(weight)
    return layers.multiply([x, weight], name=f"{name}_excite")


def add_skip(x, y, drop_path_rate: float, *, name: str):
    """Adds the block's input `x` to its output `y`, which training leaves out for some images.

    Source: Huang et al. 2016, arxiv.org/abs/1603.09382. Kept outputs are divided by their chance, per image.
    """
    if drop_path_rate > 0:
        y = layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(y)
    return layers.add([x, y], name=f"{name}_add")


def mbconv(x, spec: BlockSpec, variant: Variant, *, drop_path_rate: float = 0.0):
    """Widens, filters each channel alone, weighs the channels, narrows again. A fused block widens as it filters.

    Args:
        x: features, [batch, height, width, spec.filters_in].
        spec: the block's row, with final widths.
        variant: the network's row: padding, epsilon and activation.
        drop_path_rate: chance in [0, 1) that training skips the block for an image.

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


def classify(x, classes: int, *, dropout_rate: float, activation: str | None):
    """Pools, drops out and classifies; from the dropout on in float32, whatever the policy of mixed precision.

    Args:
        x: features, [batch, height, width, channels].
        classes: outputs.
        dropout_rate: chance in [0, 1) that training drops a channel.
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
