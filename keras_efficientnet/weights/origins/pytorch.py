"""The names of programs that use PyTorch: timm (and geffnet), torchvision, lukemelas.

Sources: github.com/huggingface/pytorch-image-models, timm/models/efficientnet.py and _efficientnet_blocks.py;
github.com/pytorch/vision, torchvision/models/efficientnet.py; github.com/lukemelas/EfficientNet-PyTorch, model.py.
"""

from typing import Any

import keras
import numpy as np

from keras_efficientnet.weights.engine import Origin, extract

COUNTER = "num_batches_tracked"  # of a batch norm in PyTorch; has no counterpart
AVERAGED = "n_averaged"  # of PyTorch's AveragedModel, which torchvision's trainings keep as `model_ema`; nor has this
PYTORCH: dict[str, Any] = {
    "separator": ".",
    "leaves": {
        "kernel": "weight",
        "bias": "bias",
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
    "axes": {
        "Conv2D": (3, 2, 0, 1),
        "DepthwiseConv2D": (2, 3, 0, 1),
        "Dense": (1, 0),
        "CondConv2D": (0, 4, 3, 1, 2),
        "DepthwiseCondConv2D": (0, 3, 4, 1, 2),
    },
    "flattens": True,
    "extras": rf"\.{COUNTER}$|^{AVERAGED}$",
}

SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
WIDENING = {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "dwconv": "conv_dw",
    "bn": "bn2",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
} | SQUEEZE
TIMM = Origin(
    name="timm",
    sign=r"^conv_stem\.weight$",
    ends={
        "stem_conv": "conv_stem",
        "stem_bn": "bn1",
        "top_conv": "conv_head",
        "top_bn": "bn2",
        "predictions": "classifier",
    },
    block="blocks.{stage}.{repeat}.",
    pieces={
        "plain": {"dwconv": "conv_dw", "bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"} | SQUEEZE,
        "widening": WIDENING,
        "conditional": WIDENING | {"routing": "routing_fn"},
        "fused": {"expand_conv": "conv_exp", "expand_bn": "bn1", "project_conv": "conv_pwl", "project_bn": "bn2"}
        | SQUEEZE,
    },
    **PYTORCH,
)

SAME, SYMMETRIC = ("same", 1e-3), ("symmetric", 1e-5)
TORCHVISION = Origin(
    name="torchvision",
    sign=r"^features\.0\.0\.weight$",
    ends={
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "top_conv": "features.8.0",
        "top_bn": "features.8.1",
        "predictions": "classifier.1",
    },
    block="features.{above}.{repeat}.block.",
    pieces={
        "plain": {
            "dwconv": "0.0",
            "bn": "0.1",
            "se_reduce": "1.fc1",
            "se_expand": "1.fc2",
            "project_conv": "2.0",
            "project_bn": "2.1",
        },
        "widening": {
            "expand_conv": "0.0",
            "expand_bn": "0.1",
            "dwconv": "1.0",
            "bn": "1.1",
            "se_reduce": "2.fc1",
            "se_expand": "2.fc2",
            "project_conv": "3.0",
            "project_bn": "3.1",
        },
    },
    graph=SYMMETRIC,
    # B5 to B7 have lukemelas's weights, of the official code: trained as the first, published as the second
    graphs={size: (SAME, ("symmetric", 1e-3)) for size in ((39, 48), (45, 56), (55, 64))},
    **PYTORCH,
)

ANY_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
LUKEMELAS = Origin(
    name="lukemelas",
    sign=r"^_conv_stem\.weight$",
    ends={
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "predictions": "_fc",
    },
    block="_blocks.{index}.",
    pieces={"plain": ANY_BLOCK, "widening": ANY_BLOCK},
    graph=SAME,
    **PYTORCH,
)


def to_timm(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's weights under timm's names and in its layout: what `load_state_dict` takes there."""
    arrays: dict[str, np.ndarray] = {}
    for pair, array in extract(model, TIMM):
        arrays[pair.key] = array
        if pair.leaf == "moving_variance":
            arrays[pair.key.replace("running_var", COUNTER)] = np.array(0, "int64")
    return arrays
