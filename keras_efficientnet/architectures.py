"""Defines every EfficientNet: the tables of the papers, and the rules that round them. Standard library only.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946; the code of its authors, github.com/tensorflow/tpu.
"""

import difflib
import math
import re
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """A row of a paper's table: blocks in sequence at the same number of channels."""

    kernel: int  # side of the depthwise window, in pixels
    repeats: int  # blocks at depth 1.0
    filters: int  # output channels at width 1.0
    expansion: int  # channels inside a block, as a multiple of those entering it
    stride: int  # of the first block; the others have stride 1
    fused: bool = False  # one full convolution replaces the widening and the depthwise convolution
    conditional: bool = False  # convolutions mix several kernels (experts), weighted by the block's input
    skips: bool = True  # False: no block of the stage has a skip connection
    widened_from: int | None = None  # at width 1.0: channels that the first block expands from, if not its input's


class PrunedStage(NamedTuple):
    """Channels that pruning left in the blocks of a stage."""

    filters: int  # output channels, final
    wide: tuple[int, ...]  # channels inside each block
    squeezed: tuple[int, ...]  # channels inside each block's squeeze-and-excite


class BlockSpec(NamedTuple):
    """A block of a network, with its final channels."""

    name: str  # as in keras.applications: "block2a"
    kernel: int
    stride: int
    filters_in: int
    filters_wide: int  # channels of the depthwise convolution
    filters_squeezed: int  # channels inside squeeze-and-excite; 0: no squeeze-and-excite
    filters_out: int
    widens: bool  # a pointwise convolution comes before the depthwise one
    skip: bool  # the block's input is added to its output
    fused: bool = False  # one full convolution replaces the widening and the depthwise convolution
    experts: int = 0  # kernels that each convolution mixes; 0: an ordinary convolution


STEM_FILTERS, HEAD_FILTERS = 32, 1280  # at width 1.0
SQUEEZE_RATIO = 0.25  # of the channels that enter the block, not of its wide channels
TOTAL_STRIDE = 32

# Pixel statistics of red, green and blue, 0 to 255. Source: tensorflow/tpu, efficientnet_builder.py and its directories
# condconv, lite and edgetpu; HALVED: timm, default_cfgs of the pruned networks (0.5 of pixels from 0 to 1)
MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STDDEV_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)
CENTRED: dict[str, Any] = {"mean": (127.0,) * 3, "deviation": (128.0,) * 3}
HALVED: dict[str, Any] = {"mean": (127.5,) * 3, "deviation": (127.5,) * 3}

# Tan & Le 2019, table 1, stages 2 to 8 (its stride column is shifted by one: github.com/tensorflow/tpu/issues/383)
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
# Yang et al. 2019, arxiv.org/abs/1904.04971: experts in the last three stages; tensorflow/tpu, condconv
CONDCONV_STAGES = STAGES[:4] + tuple(stage._replace(conditional=True) for stage in STAGES[4:])
# tensorflow/tpu, edgetpu/efficientnet_edgetpu_builder.py
EDGETPU_STAGES = (
    #     kernel repeats filters expansion stride
    Stage(3,     1,       24,    4,        1, fused=True, skips=False, widened_from=24),
    Stage(3,     2,       32,    8,        2, fused=True),
    Stage(3,     4,       48,    8,        2, fused=True),
    Stage(5,     5,       96,    8,        2),
    Stage(5,     4,      144,    8,        1),
    Stage(5,     2,      192,    8,        2),
)

# B1 to B3 pruned by Aflalo et al. 2020, arxiv.org/abs/2002.08258: timm/models/_pruned/*.txt
B1_PRUNED = (
    PrunedStage(16, (32, 16), (8, 4)),
    PrunedStage(12, (48, 62, 48), (4, 6, 6)),
    PrunedStage(35, (70, 61, 51), (6, 10, 10)),
    PrunedStage(74, (175, 188, 137, 164), (10, 20, 20, 20)),
    PrunedStage(67, (399, 201, 160, 213), (20, 28, 28, 28)),
    PrunedStage(192, (637, 806, 798, 891, 990), (27, 48, 48, 48, 48)),
    PrunedStage(320, (1152, 1912), (48, 80)),
)
B2_PRUNED = (
    PrunedStage(16, (32, 16), (8, 4)),
    PrunedStage(17, (54, 69, 61), (4, 6, 6)),
    PrunedStage(42, (86, 72, 98), (6, 12, 12)),
    PrunedStage(85, (245, 274, 254, 292), (12, 22, 22, 22)),
    PrunedStage(116, (502, 315, 354, 443), (22, 30, 30, 30)),
    PrunedStage(208, (719, 1148, 1160, 1182, 1228), (30, 52, 52, 52, 52)),
    PrunedStage(352, (1248, 2112), (52, 88)),
)
B3_PRUNED = (
    PrunedStage(24, (40, 24), (10, 6)),
    PrunedStage(12, (27, 49, 48), (6, 8, 8)),
    PrunedStage(40, (83, 90, 85), (8, 12, 12)),
    PrunedStage(93, (215, 261, 219, 254, 236), (12, 24, 24, 24, 24)),
    PrunedStage(120, (480, 235, 217, 226, 340), (24, 34, 34, 33, 34)),
    PrunedStage(232, (802, 1030, 924, 1016, 1130, 1266), (34, 58, 58, 58, 58, 58)),
    PrunedStage(384, (1392, 2301), (58, 96)),
)
# fmt: on


class Variant(NamedTuple):
    """Everything that distinguishes one network from another."""

    width: float  # multiplies channels
    depth: float  # multiplies the blocks of a stage
    resolution: int  # side of its training images, in pixels
    dropout: float  # rate before the classifier
    top_1: float  # published accuracy on ImageNet, in percent; see the sources above VARIANTS
    top_5: float
    timm: str | None = None  # timm's name of the network
    megabytes: float | None = None  # size of the weights file, where a model card states it
    stages: tuple[Stage, ...] = STAGES
    experts: int = 0  # kernels that a conditional stage mixes
    pruned: tuple[PrunedStage, ...] | None = None  # final channels, instead of those from `width`
    squeeze_ratio: float = SQUEEZE_RATIO  # 0: no squeeze-and-excite
    activation: str = "swish"
    fixed_ends: bool = False  # `width` leaves stem and head as they are, `depth` the first and last stage
    padding: str = "same"  # "same" as in TensorFlow, or "symmetric" as in PyTorch
    epsilon: float = 1e-3  # of batch norm
    mean: tuple[float, ...] = MEAN_RGB
    deviation: tuple[float, ...] = STDDEV_RGB
    interpolation: str = "bicubic"  # that resizes its images
    crop_padding: int = 32  # pixels around the central crop in evaluation

    @property
    def crop_fraction(self) -> float:
        """Returns the share of an image's shorter side that the central crop covers."""
        return self.resolution / (self.resolution + self.crop_padding)


CONDCONV: dict[str, Any] = {"stages": CONDCONV_STAGES, **CENTRED}
LITE: dict[str, Any] = {
    "squeeze_ratio": 0.0,
    "activation": "relu6",
    "fixed_ends": True,
    "interpolation": "bilinear",
    **CENTRED,
}
EDGETPU: dict[str, Any] = {
    "stages": EDGETPU_STAGES,
    "squeeze_ratio": 0.0,
    "activation": "relu",
    "interpolation": "bilinear",
    **CENTRED,
}
TORCH: dict[str, Any] = {"padding": "symmetric", "epsilon": 1e-5}

# Coefficients: tensorflow/tpu, models/official/efficientnet, *_builder.py, efficientnet_params and the like; -torch:
# torchvision/models/efficientnet.py. Accuracies: timm/results/results-imagenet.csv (B0 to B7 trained with AutoAugment,
# B8 with RandAugment, L2 with Noisy Student), measured with timm's preprocessing: CondConv, Lite and EdgeTPU with mean
# and deviation 127.5, Lite3 and Lite4 at 300 and 380 pixels. -torch: the first weights in torchvision's table.
# Megabytes: timm's model cards, whose "FLOPs" for CondConv omit the conditional convolutions.
# fmt: off
VARIANTS = {
    #                          width depth resolution dropout top_1   top_5   timm
    "efficientnet-b0": Variant(1.0,  1.0,  224,       0.2,    76.882, 93.270, "tf_efficientnet_b0"),
    "efficientnet-b1": Variant(1.0,  1.1,  240,       0.2,    78.840, 94.202, "tf_efficientnet_b1"),
    "efficientnet-b2": Variant(1.1,  1.2,  260,       0.3,    80.074, 94.906, "tf_efficientnet_b2"),
    "efficientnet-b3": Variant(1.2,  1.4,  300,       0.3,    81.648, 95.724, "tf_efficientnet_b3"),
    "efficientnet-b4": Variant(1.4,  1.8,  380,       0.4,    83.040, 96.298, "tf_efficientnet_b4"),
    "efficientnet-b5": Variant(1.6,  2.2,  456,       0.4,    83.696, 96.712, "tf_efficientnet_b5"),
    "efficientnet-b6": Variant(1.8,  2.6,  528,       0.5,    84.124, 96.890, "tf_efficientnet_b6"),
    "efficientnet-b7": Variant(2.0,  3.1,  600,       0.5,    84.424, 96.908, "tf_efficientnet_b7"),
    "efficientnet-b8": Variant(2.2,  3.6,  672,       0.5,    85.344, 97.392, "tf_efficientnet_b8"),
    "efficientnet-l2": Variant(4.3,  5.3,  800,       0.5,    88.360, 98.656, "tf_efficientnet_l2"),
    # CondConv B1 at timm's 240 pixels; its authors call it b0-8e-depth and ran it at 224
    "efficientnet-condconv-b0-4e": Variant(
        1.0, 1.0, 224, 0.25, 77.324, 93.334, "tf_efficientnet_cc_b0_4e", 51.01, experts=4, **CONDCONV),
    "efficientnet-condconv-b0-8e": Variant(
        1.0, 1.0, 224, 0.25, 77.956, 93.638, "tf_efficientnet_cc_b0_8e", 91.83, experts=8, **CONDCONV),
    "efficientnet-condconv-b1-8e": Variant(
        1.0, 1.1, 240, 0.25, 79.318, 94.384, "tf_efficientnet_cc_b1_8e", 151.83, experts=8, **CONDCONV),
    "efficientnet-b1-pruned": Variant(
        1.0, 1.1, 240, 0.2, 78.252, 93.820, "efficientnet_b1_pruned", 24.41, pruned=B1_PRUNED, **HALVED),
    "efficientnet-b2-pruned": Variant(
        1.1, 1.2, 260, 0.3, 79.904, 94.838, "efficientnet_b2_pruned", 32.00, pruned=B2_PRUNED, **HALVED),
    "efficientnet-b3-pruned": Variant(
        1.2, 1.4, 300, 0.3, 80.864, 95.266, "efficientnet_b3_pruned", 37.93, pruned=B3_PRUNED, **HALVED),
    "efficientnet-lite0": Variant(1.0, 1.0, 224, 0.2, 74.846, 92.180, "tf_efficientnet_lite0", **LITE),
    "efficientnet-lite1": Variant(1.0, 1.1, 240, 0.2, 76.674, 93.232, "tf_efficientnet_lite1", **LITE),
    "efficientnet-lite2": Variant(1.1, 1.2, 260, 0.3, 77.470, 93.756, "tf_efficientnet_lite2", **LITE),
    "efficientnet-lite3": Variant(1.2, 1.4, 280, 0.3, 79.808, 94.908, "tf_efficientnet_lite3", **LITE),
    "efficientnet-lite4": Variant(1.4, 1.8, 300, 0.3, 81.540, 95.668, "tf_efficientnet_lite4", **LITE),
    "efficientnet-edgetpu-S": Variant(1.0, 1.0, 224, 0.2, 76.608, 93.176, "tf_efficientnet_es", **EDGETPU),
    "efficientnet-edgetpu-M": Variant(1.0, 1.1, 240, 0.2, 78.128, 94.052, "tf_efficientnet_em", **EDGETPU),
    "efficientnet-edgetpu-L": Variant(1.2, 1.4, 300, 0.2, 80.246, 95.122, "tf_efficientnet_el", **EDGETPU),
    "efficientnet-b0-torch": Variant(1.0, 1.0, 224, 0.2, 77.692, 93.532, "efficientnet_b0", **TORCH),
    "efficientnet-b1-torch": Variant(1.0, 1.1, 240, 0.2, 78.642, 94.186, "efficientnet_b1", crop_padding=16, **TORCH),
    "efficientnet-b2-torch": Variant(1.1, 1.2, 288, 0.3, 80.608, 95.310, "efficientnet_b2", crop_padding=0, **TORCH),
    "efficientnet-b3-torch": Variant(1.2, 1.4, 300, 0.3, 82.008, 96.054, "efficientnet_b3", crop_padding=20, **TORCH),
    "efficientnet-b4-torch": Variant(1.4, 1.8, 380, 0.4, 83.384, 96.594, "efficientnet_b4", crop_padding=4, **TORCH),
    # trained with SAME padding, published with symmetric padding; of torchvision, unlike timm's efficientnet_b5
    "efficientnet-b5-torch": Variant(1.6, 2.2, 456, 0.4, 83.444, 96.628, padding="symmetric", crop_padding=0),
    "efficientnet-b6-torch": Variant(1.8, 2.6, 528, 0.5, 84.008, 96.916, padding="symmetric", crop_padding=0),
    "efficientnet-b7-torch": Variant(2.0, 3.1, 600, 0.5, 84.122, 96.908, padding="symmetric", crop_padding=0),
}
# fmt: on
OTHER_NAMES = {variant.timm: name for name, variant in VARIANTS.items() if variant.timm}
OTHER_NAMES["efficientnet-condconv-b0-8e-depth"] = "efficientnet-condconv-b1-8e"


def official_name(name: str) -> str:
    """Returns the name in VARIANTS for a name in VARIANTS, in timm ("tf_efficientnet_b0") or in the official code.

    Raises:
        ValueError: the name is unknown; the message suggests the closest one.
    """
    official = OTHER_NAMES.get(name, name)
    if official not in VARIANTS:
        raise ValueError(f"Unknown model {name!r}.{_hint(name)} Choose one of: {', '.join(VARIANTS)}")
    return official


def _hint(name: str) -> str:
    """Returns a sentence on the network that an unknown name may stand for, or "".

    What all names share, "efficientnet", is not compared: "efficientnetv2-s" resembles "efficientnet-l2" by it alone.
    """
    plain = name.lower().replace("_", "-")
    if re.search(r"net-?v2", plain):
        return " EfficientNetV2 is another family, which keras.applications has."
    endings = {official.lower().removeprefix("efficientnet"): official for official in VARIANTS}
    if "efficientnet" in plain:
        close = [endings[ending] for ending in difflib.get_close_matches(plain.split("efficientnet")[1], endings, 1)]
    else:
        close = difflib.get_close_matches(plain, VARIANTS, 1)
    return f" Did you mean {close[0]!r}?" if close else ""


def keras_name(name: str) -> str:
    """Returns the default name of a variant's models, as in keras.applications: "efficientnetb0"."""
    return name.replace("-", "", 1).replace("-", "_").lower()


def find_variant(name: str) -> Variant:
    """Returns the row of `official_name(name)`; raises like it."""
    return VARIANTS[official_name(name)]


def round_filters(filters: int, width: float) -> int:
    """Rounds `filters` times `width` to the nearest multiple of 8, but never below 90% of the product."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def stem_filters(variant: Variant) -> int:
    """Returns the channels of the first convolution."""
    return STEM_FILTERS if variant.fixed_ends else round_filters(STEM_FILTERS, variant.width)


def head_filters(variant: Variant) -> int:
    """Returns the channels of the last convolution."""
    return HEAD_FILTERS if variant.fixed_ends else round_filters(HEAD_FILTERS, variant.width)


def blocks(variant: Variant) -> tuple[BlockSpec, ...]:
    """Returns every block of a network in order, with its final channels. Models and profiles are made from these.

    Example:
        >>> from keras_efficientnet.architectures import blocks, find_variant
        >>> [block.name for block in blocks(find_variant("efficientnet-b0"))][:3]
        ['block1a', 'block2a', 'block2b']
    """
    rows: list[BlockSpec] = []
    for number, stage in enumerate(variant.stages, start=1):
        filters_out = round_filters(stage.filters, variant.width)
        filters_in = rows[-1].filters_out if rows else stem_filters(variant)
        widened_from = round_filters(stage.widened_from, variant.width) if stage.widened_from else filters_in
        for repeat in range(_repeats(variant, number)):
            rows.append(
                BlockSpec(
                    name=f"block{number}{chr(ord('a') + repeat)}",
                    kernel=stage.kernel,
                    stride=stage.stride if repeat == 0 else 1,
                    filters_in=filters_in,
                    filters_wide=widened_from * stage.expansion,
                    filters_squeezed=max(1, int(filters_in * variant.squeeze_ratio)) if variant.squeeze_ratio else 0,
                    filters_out=filters_out,
                    widens=stage.expansion > 1,
                    skip=stage.skips and (repeat > 0 or (stage.stride == 1 and filters_in == filters_out)),
                    fused=stage.fused,
                    experts=variant.experts if stage.conditional else 0,
                )
            )
            filters_in = widened_from = filters_out
    return _prune(rows, variant.pruned) if variant.pruned else tuple(rows)


def _repeats(variant: Variant, number: int) -> int:
    fixed = variant.fixed_ends and number in (1, len(variant.stages))
    return math.ceil(variant.stages[number - 1].repeats * (1.0 if fixed else variant.depth))


def _prune(rows: list[BlockSpec], pruned: tuple[PrunedStage, ...]) -> tuple[BlockSpec, ...]:
    channels = [(stage.filters, *pair) for stage in pruned for pair in zip(stage.wide, stage.squeezed, strict=True)]
    if len(channels) != len(rows):
        raise ValueError(
            f"A pruned network has {len(channels)} blocks, its depth gives {len(rows)}. Do not change `depth`."
        )
    filters_in = rows[0].filters_in
    for index, (filters_out, wide, squeezed) in enumerate(channels):
        rows[index] = rows[index]._replace(
            filters_in=filters_in, filters_wide=wide, filters_squeezed=squeezed, filters_out=filters_out
        )
        filters_in = filters_out
    return tuple(rows)
