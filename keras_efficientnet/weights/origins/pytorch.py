"""What the weights of all PyTorch programs have in common: names of variables, layouts of kernels."""

from typing import Any

COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; has no counterpart
MODEL_COUNTER = "n_averaged"  # of PyTorch's AveragedModel, which torchvision saves as `model_ema`; has none either
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
    "extras": rf"\.{COUNTER}$|(^|\.){MODEL_COUNTER}$",
}
