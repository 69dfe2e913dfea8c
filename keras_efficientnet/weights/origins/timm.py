"""Names of timm and of geffnet, and the way back.

Source: github.com/huggingface/pytorch-image-models, timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

import keras
import numpy as np

from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.origins.pytorch import COUNTER, PYTORCH
from keras_efficientnet.weights.pairing import Origin

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
    sign=r"conv_stem\.weight",
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


def to_timm(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the model's weights under timm's names and in its layout, for its `load_state_dict`.

    Args:
        model: built by this package, with or without its top.

    Example:
        >>> from keras_efficientnet import EfficientNetB0
        >>> from keras_efficientnet.weights.registry import to_timm
        >>> to_timm(EfficientNetB0(include_top=False, weights=None))["conv_stem.weight"].shape
        (32, 3, 3, 3)
    """
    arrays: dict[str, np.ndarray] = {}
    for pair, array in extract(model, TIMM):
        arrays[pair.key] = array
        if pair.leaf == "moving_variance":
            arrays[pair.key.replace("running_var", COUNTER)] = np.array(0, "int64")
    return arrays
