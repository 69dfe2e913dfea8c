"""The pieces of an EfficientNet: tensor in, tensor out. Layer names are those of keras.applications.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946; initialisers as in github.com/tensorflow/tpu.
"""

import keras
from keras import layers

from keras_efficientnet.architectures import BlockSpec
from keras_efficientnet.layers import BatchNormalization

BATCH_NORM = {"momentum": 0.99, "epsilon": 1e-3}


def _kernel_initializer():
    """A normal distribution by fan-out, not truncated; new for each layer, so that no two draw the same values."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def convolve(x, filters: int, *, kernel: int, name: str, stride: int = 1, activation: str | None = "swish"):
    """Convolution without bias, batch norm, activation.

    Args:
        x: features, [batch, height, width, channels].
        filters: channels put out.
        kernel: side of the window, in pixels.
        name: of the layers: `{name}_conv`, `{name}_bn`, `{name}_activation`.
        stride: in pixels; the padding is TensorFlow's SAME, right at every size.
        activation: name in `keras.activations`, or None.

    Returns:
        Features, [batch, ceil(height / stride), ceil(width / stride), filters].
    """
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_kernel_initializer(),
        name=f"{name}_conv",
    )(x)
    x = BatchNormalization(**BATCH_NORM, name=f"{name}_bn")(x)
    return layers.Activation(activation, name=f"{name}_activation")(x) if activation else x


def filter_channels(x, *, kernel: int, stride: int, name: str):
    """Filters each channel alone; shapes as in `convolve`."""
    x = layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_kernel_initializer(),
        name=f"{name}_dwconv",
    )(x)
    x = BatchNormalization(**BATCH_NORM, name=f"{name}_bn")(x)
    return layers.Activation("swish", name=f"{name}_activation")(x)


def squeeze_excite(x, filters_squeezed: int, *, name: str):
    """Weighs each channel by what all channels are on average. Source: Hu et al. 2017, arxiv.org/abs/1709.01507.

    Args:
        x: features, [batch, height, width, channels].
        filters_squeezed: channels of the layer between.
        name: prefix of the layers, `block2a_se`.

    Returns:
        Features of the same shape.
    """
    weight = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    for filters, activation, step in (
        (filters_squeezed, "swish", "reduce"),
        (x.shape[-1], "sigmoid", "expand"),
    ):
        weight = layers.Conv2D(
            filters,
            1,
            activation=activation,
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


def mbconv(x, spec: BlockSpec, *, drop_path_rate: float = 0.0):
    """Widens, filters each channel alone, weighs the channels, narrows again.

    Args:
        x: features, [batch, height, width, spec.filters_in].
        spec: the block's row, with final widths.
        drop_path_rate: chance in [0, 1) that training skips the block for an image.

    Returns:
        Features, [batch, ceil(height / stride), ceil(width / stride), spec.filters_out].

    Source: Sandler et al. 2018, arxiv.org/abs/1801.04381.
    """
    y = x
    if spec.widens:
        y = convolve(y, spec.filters_wide, kernel=1, name=f"{spec.name}_expand")
    y = filter_channels(y, kernel=spec.kernel, stride=spec.stride, name=spec.name)
    y = squeeze_excite(y, spec.filters_squeezed, name=f"{spec.name}_se")
    y = convolve(y, spec.filters_out, kernel=1, activation=None, name=f"{spec.name}_project")
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
