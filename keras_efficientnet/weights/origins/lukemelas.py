"""Names of lukemelas's efficientnet_pytorch. Source: github.com/lukemelas/EfficientNet-PyTorch, model.py."""

from keras_efficientnet.weights.origins.pytorch import PYTORCH
from keras_efficientnet.weights.pairing import Origin

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
    sign=r"_conv_stem\.weight",
    ends={
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "predictions": "_fc",
    },
    block="_blocks.{index}.",
    pieces={"plain": ANY_BLOCK, "widening": ANY_BLOCK},
    graph=("same", 1e-3),
    **PYTORCH,
)
