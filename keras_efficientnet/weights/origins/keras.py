"""The names of programs that use Keras: ours, keras.applications and keras-hub.

The first two call the layers the same. Sources: keras/src/applications/efficientnet.py;
keras_hub/src/models/efficientnet/efficientnet_backbone.py, whose networks are timm's with PyTorch's padding.
"""

from typing import Any

from keras_efficientnet.weights.engine import ENDS, Origin

PLAIN = ("dwconv", "bn", "se_reduce", "se_expand", "project_conv", "project_bn")
WIDENING = ("expand_conv", "expand_bn", *PLAIN)
KERAS: dict[str, Any] = {
    "ends": {name: name for name in ENDS},
    "block": "{name}_",
    "leaves": {leaf: leaf for leaf in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")},
}
OURS = Origin(
    name="ours",
    sign=r"^stem_conv/kernel$",
    pieces={
        "plain": {piece: piece for piece in PLAIN},
        "widening": {piece: piece for piece in WIDENING},
        "conditional": {piece: piece for piece in (*WIDENING, "routing")},
        "fused": {piece: piece for piece in WIDENING if piece not in ("dwconv", "bn")},
    },
    adapts=False,
    **KERAS,
)
KERAS_APPLICATIONS = Origin(
    name="keras.applications",
    sign=r"^normalization(_\d+)?/variance$",
    pieces={kind: OURS.pieces[kind] for kind in ("plain", "widening")},
    extras=r"^normalization(_\d+)?/(mean|variance|count)$",
    graph=("same", 1e-3),
    **KERAS,
)
RENAMED = {"bn": "dwconv_bn", "project_conv": "project"}
KERAS_HUB = Origin(
    name="keras-hub",
    sign=r"^block1a_project/kernel$",
    pieces={kind: {**KERAS_APPLICATIONS.pieces[kind], **RENAMED} for kind in ("plain", "widening")},
    graph=("symmetric", 1e-5),
    **KERAS,
)
