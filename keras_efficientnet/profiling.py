"""Parameters, multiply-adds and activations of a network, by arithmetic. Needs neither TensorFlow nor Keras."""

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
    parameters: int  # trainable
    statistics: int  # moving mean and variance of the batch norms
    macs: int  # multiply-adds of convolutions and dense layers, per image
    activations: int  # values that convolutions and dense layers put out, per image
    resolution: int  # side of the image, in pixels, that `macs` and `activations` are for


class Layer(NamedTuple):
    """A convolution or a dense layer (a convolution of one pixel)."""

    name: str
    kernel: int
    inputs: int  # channels that each output reads: 1 in a depthwise convolution
    outputs: int
    side: int  # of the map it puts out, in pixels
    batch_norm: bool  # follows; otherwise the layer has a bias
    experts: int = 0  # kernels that are mixed for each image; 0: there is one

    @property
    def weights(self) -> int:
        """Of one kernel."""
        return self.kernel**2 * self.inputs * self.outputs


def layers(variant: Variant, resolution: int, classes: int) -> Iterator[Layer]:
    """Every layer with weights, in order. `classes` = 0 leaves the classifier out."""
    side = math.ceil(resolution / 2)
    yield Layer("stem", 3, 3, stem_filters(variant), side, True)
    for spec in blocks(variant):
        yield from _block_layers(spec, side)
        side = math.ceil(side / spec.stride)
    yield Layer("top", 1, spec.filters_out, head_filters(variant), side, True)
    if classes:
        yield Layer("predictions", 1, head_filters(variant), classes, 1, False)


def _block_layers(spec: BlockSpec, side: int) -> Iterator[Layer]:
    name, wide, squeezed, experts = spec.name, spec.filters_wide, spec.filters_squeezed, spec.experts
    smaller = math.ceil(side / spec.stride)
    if experts:
        yield Layer(f"{name}_routing", 1, spec.filters_in, experts, 1, False)
    if spec.fused:
        yield Layer(f"{name}_expand", spec.kernel, spec.filters_in, wide, smaller, True, experts)
    else:
        if spec.widens:
            yield Layer(f"{name}_expand", 1, spec.filters_in, wide, side, True, experts)
        yield Layer(f"{name}_dwconv", spec.kernel, 1, wide, smaller, True, experts)
    if squeezed:
        yield Layer(f"{name}_se_reduce", 1, wide, squeezed, 1, False)
        yield Layer(f"{name}_se_expand", 1, squeezed, wide, 1, False)
    yield Layer(f"{name}_project", 1, wide, spec.filters_out, smaller, True, experts)


def profile(model: str | Variant, resolution: int | None = None, classes: int = 1000) -> Profile:
    """Counts a network without building it.

    Args:
        model: a name from `list_models`, or a row of the table.
        resolution: side of the square image, in pixels; the model's own by default.
        classes: outputs of the classifier; 0 leaves it out.

    Returns:
        The counts. Multiply-adds are those of convolutions and dense layers, and of mixing the kernels of experts:
        nothing for normalisation, activation, pooling and addition. A paper's "FLOPS" are usually these.

    Raises:
        ValueError: unknown model, or `resolution` or `classes` out of range.
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
