"""What each EfficientNet is: the tables of the papers and the rounding rules. Standard library only.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946; the code of its authors, github.com/tensorflow/tpu.
"""

import math
from typing import NamedTuple


class Stage(NamedTuple):
    kernel: int  # side of the depthwise window, in pixels
    repeats: int  # blocks at depth 1.0
    filters: int  # output channels at width 1.0
    expansion: int  # channels inside a block, as a multiple of those entering it
    stride: int  # of the first block; the others have 1


class Variant(NamedTuple):
    width: float  # multiplies the channels
    depth: float  # multiplies the blocks of a stage
    resolution: int  # side of the images it was made for, in pixels
    dropout: float  # before the classifier


class BlockSpec(NamedTuple):
    name: str  # as in keras.applications: "block2a"
    kernel: int
    stride: int
    filters_in: int
    filters_wide: int  # channels of the depthwise filter
    filters_squeezed: int  # channels inside squeeze-and-excite
    filters_out: int

    @property
    def widens(self) -> bool:
        return self.filters_wide != self.filters_in

    @property
    def skip(self) -> bool:
        return self.stride == 1 and self.filters_in == self.filters_out


STEM_FILTERS, HEAD_FILTERS = 32, 1280  # at width 1.0
SQUEEZE_RATIO = 0.25  # of the channels that enter the block, not of the widened ones
TOTAL_STRIDE = 32

# Of the ImageNet pixels, red, green, blue, 0 to 255. Source: tensorflow/tpu, efficientnet_builder.py
MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STDDEV_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)

# Tan & Le 2019, table 1, stages 2 to 8 (its column of strides is shifted by one: github.com/tensorflow/tpu/issues/383)
# fmt: off
STAGES = (
    #     kernel repeats filters expansion stride
    Stage(3,     1,       16,    1,        1),
    Stage(3,     2,       24,    6,        2),
    Stage(5,     2,       40,    6,        2),
    Stage(3,     3,       80,    6,        2),
    Stage(5,     3,      112,    6,        1),
    Stage(5,     4,      192,    6,        2),
    Stage(3,     1,      320,    6,        1),
)

# tensorflow/tpu, models/official/efficientnet/efficientnet_builder.py, efficientnet_params
VARIANTS = {
    #                          width depth resolution dropout
    "efficientnet-b0": Variant(1.0,  1.0,  224,       0.2),
    "efficientnet-b1": Variant(1.0,  1.1,  240,       0.2),
    "efficientnet-b2": Variant(1.1,  1.2,  260,       0.3),
    "efficientnet-b3": Variant(1.2,  1.4,  300,       0.3),
    "efficientnet-b4": Variant(1.4,  1.8,  380,       0.4),
    "efficientnet-b5": Variant(1.6,  2.2,  456,       0.4),
    "efficientnet-b6": Variant(1.8,  2.6,  528,       0.5),
    "efficientnet-b7": Variant(2.0,  3.1,  600,       0.5),
    "efficientnet-b8": Variant(2.2,  3.6,  672,       0.5),
    "efficientnet-l2": Variant(4.3,  5.3,  800,       0.5),
}
# fmt: on


def official_name(name: str) -> str:
    """The name that the table knows `name` by: itself, or timm's without its prefix `tf_`.

    Raises:
        ValueError: no variant is called so.
    """
    official = name.removeprefix("tf_").replace("_", "-") if name.startswith("tf_") else name
    if official not in VARIANTS:
        raise ValueError(f"Unknown model {name!r}. Choose one of: {', '.join(VARIANTS)}")
    return official


def find_variant(name: str) -> Variant:
    """The row of `official_name(name)`; raises as it does."""
    return VARIANTS[official_name(name)]


def round_filters(filters: int, width: float) -> int:
    """`filters` times `width`, to the nearest multiple of 8, and never below nine tenths of the product."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stem_filters(variant: Variant) -> int:
    return round_filters(STEM_FILTERS, variant.width)


def head_filters(variant: Variant) -> int:
    return round_filters(HEAD_FILTERS, variant.width)


def blocks(variant: Variant) -> tuple[BlockSpec, ...]:
    """Every block of the network in order, with its final widths. Everything else reads this."""
    rows = []
    filters_in = stem_filters(variant)
    for number, stage in enumerate(STAGES, start=1):
        filters_out = round_filters(stage.filters, variant.width)
        for repeat in range(math.ceil(stage.repeats * variant.depth)):
            rows.append(
                BlockSpec(
                    name=f"block{number}{chr(ord('a') + repeat)}",
                    kernel=stage.kernel,
                    stride=stage.stride if repeat == 0 else 1,
                    filters_in=filters_in,
                    filters_wide=filters_in * stage.expansion,
                    filters_squeezed=max(1, int(filters_in * SQUEEZE_RATIO)),
                    filters_out=filters_out,
                )
            )
            filters_in = filters_out
    return tuple(rows)
