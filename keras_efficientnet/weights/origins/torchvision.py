"""Names of torchvision. Source: github.com/pytorch/vision, torchvision/models/efficientnet.py."""

from keras_efficientnet.weights.origins.pytorch import PYTORCH
from keras_efficientnet.weights.pairing import Origin

SAME_PADDING, SYMMETRIC_PADDING = ("same", 1e-3), ("symmetric", 1e-3)
TORCHVISION = Origin(
    name="torchvision",
    sign=r"features\.0\.0\.weight",
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
    graph=("symmetric", 1e-5),
    # B5 to B7 are lukemelas's conversions of the official weights: trained with SAME padding, published with symmetric
    graphs={size: (SAME_PADDING, SYMMETRIC_PADDING) for size in ((39, 48), (45, 56), (55, 64))},
    **PYTORCH,
)
