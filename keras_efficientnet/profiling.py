"""Counts parameters, multiply-adds and activations of a network by arithmetic, without TensorFlow or Keras."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from keras_efficientnet.architectures import (
    BlockSpec,
    Variant,
    blocks,
    find_variant,
    head_filters,
    stem_filters,
)


class Profile(NamedTuple):
    """The size and the cost of a network."""

    parameters: int  # trainable parameters
    statistics: int  # moving means and variances of batch norms
    macs: int  # multiply-adds of convolutions and dense layers, per image
    activations: int  # output values of convolutions and dense layers, per image
    resolution: int  # side of the image that `macs` and `activations` are for, in pixels


class Layer(NamedTuple):
    """A convolution, or a dense layer as a convolution of one pixel."""

    name: str
    kernel: int
    inputs: int  # channels that each output reads: 1 in a depthwise convolution
    outputs: int
    side: int  # of the output, in pixels
    batch_norm: bool  # True: followed by a batch norm; False: the layer has a bias
    experts: int = 0  # kernels that are mixed for each image; 0: an ordinary layer

    @property
    def weights(self) -> int:
        """Returns the number of weights in one kernel."""
        return self.kernel**2 * self.inputs * self.outputs


def layers(variant: Variant, resolution: int, classes: int) -> Iterator[Layer]:
    """Yields every layer with weights, in order. `classes` = 0 omits the classifier."""
    side = math.ceil(resolution / 2)
    yield _convolution("stem", 3, stem_filters(variant), side, kernel=3)
    for spec in blocks(variant):
        yield from _block_layers(spec, side)
        side = math.ceil(side / spec.stride)
    yield _convolution("top", spec.filters_out, head_filters(variant), side)
    if classes:
        yield _dense("predictions", head_filters(variant), classes)


def _block_layers(spec: BlockSpec, side: int) -> Iterator[Layer]:
    name, wide, experts = spec.name, spec.filters_wide, spec.experts
    output_side = math.ceil(side / spec.stride)
    if experts:
        yield _dense(f"{name}_routing", spec.filters_in, experts)
    if spec.fused:
        yield _convolution(f"{name}_expand", spec.filters_in, wide, output_side, kernel=spec.kernel, experts=experts)
    else:
        if spec.widens:
            yield _convolution(f"{name}_expand", spec.filters_in, wide, side, experts=experts)
        yield _convolution(f"{name}_dwconv", 1, wide, output_side, kernel=spec.kernel, experts=experts)
    if spec.filters_squeezed:
        yield _dense(f"{name}_se_reduce", wide, spec.filters_squeezed)
        yield _dense(f"{name}_se_expand", spec.filters_squeezed, wide)
    yield _convolution(f"{name}_project", wide, spec.filters_out, output_side, experts=experts)


def _convolution(name: str, inputs: int, outputs: int, side: int, *, kernel: int = 1, experts: int = 0) -> Layer:
    return Layer(name=name, kernel=kernel, inputs=inputs, outputs=outputs, side=side, batch_norm=True, experts=experts)


def _dense(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name=name, kernel=1, inputs=inputs, outputs=outputs, side=1, batch_norm=False)


def profile(model: str | Variant, resolution: int | None = None, classes: int = 1000) -> Profile:
    """Counts the parameters and operations of a network without building it.

    Args:
        model: a name from `list_models`, or a row of VARIANTS.
        resolution: side of the square image, in pixels; the network's own by default.
        classes: number of classes; 0 omits the classifier.

    Returns:
        The counts. Multiply-adds include convolutions, dense layers and the mixing of experts' kernels, but not
        normalisation, activations, pooling and addition. Papers usually call them "FLOPs".

    Raises:
        ValueError: the model is unknown, or `resolution` or `classes` is out of range.

    Example:
        >>> from keras_efficientnet import profile
        >>> profile("efficientnet-b0").parameters
        5288548
    """
    variant = find_variant(model) if isinstance(model, str) else model
    resolution = variant.resolution if resolution is None else resolution
    if resolution < 1 or classes < 0:
        raise ValueError(
            f"`resolution` must be at least 1 and `classes` at least 0. "
            f"Received: resolution={resolution}, classes={classes}"
        )
    rows = tuple(layers(variant, resolution, classes))
    return Profile(
        parameters=sum(row.weights * max(1, row.experts) + row.outputs * (2 if row.batch_norm else 1) for row in rows),
        statistics=sum(2 * row.outputs for row in rows if row.batch_norm),
        macs=sum(row.weights * (row.side**2 + row.experts) for row in rows),
        activations=sum(row.outputs * row.side**2 for row in rows),
        resolution=resolution,
    )
