"""Names of the official code, in TensorFlow 1 checkpoints.

Source: github.com/tensorflow/tpu, models/official/efficientnet. A training checkpoint also holds the step and the
optimizer's slots. The official code numbers conditional convolutions through the whole network, in ways that changed
over the years; the table numbers them within each block.
"""

import re
from collections.abc import Iterable

from keras_efficientnet.weights.pairing import Origin

CONDITIONAL = re.compile(r"(blocks_\d+/(?:depthwise_)?cond_conv2d)(?:_(\d+))?(/.+)")
WIDENING = {
    "expand_conv": "conv2d",
    "expand_bn": "tpu_batch_normalization",
    "dwconv": "depthwise_conv2d",
    "bn": "tpu_batch_normalization_1",
    "se_reduce": "se/conv2d",
    "se_expand": "se/conv2d_1",
    "project_conv": "conv2d_1",
    "project_bn": "tpu_batch_normalization_2",
}


def restart_counters(names: Iterable[str]) -> dict[str, str]:
    """Removes the scope of conditional blocks, and numbers conditional convolutions within each block.

    Returns:
        The names, by their new names.

    Raises:
        ValueError: two names become the same.
    """
    renamed = {name: name.removeprefix("model/") for name in names}
    found = {name: match for name, short in renamed.items() if (match := CONDITIONAL.fullmatch(short))}
    numbers: dict[str, set[int]] = {}
    for match in found.values():
        numbers.setdefault(match[1], set()).add(int(match[2] or 0))
    for name, (layer, number, leaf) in ((name, match.groups()) for name, match in found.items()):
        place = sorted(numbers[layer]).index(int(number or 0))
        renamed[name] = f"{layer}_{place}{leaf}" if place else f"{layer}{leaf}"
    by_new_name = {new: name for name, new in renamed.items()}
    if len(by_new_name) < len(renamed):
        raise ValueError(
            "The file holds the blocks of several networks, with and without model/. Save one of them alone."
        )
    return by_new_name


OFFICIAL = Origin(
    name="tf1",
    sign=r"stem/conv2d/kernel",
    ends={
        "stem_conv": "stem/conv2d",
        "stem_bn": "stem/tpu_batch_normalization",
        "top_conv": "head/conv2d",
        "top_bn": "head/tpu_batch_normalization",
        "predictions": "head/dense",
    },
    block="blocks_{index}/",
    pieces={
        "plain": {
            "dwconv": "depthwise_conv2d",
            "bn": "tpu_batch_normalization",
            "se_reduce": "se/conv2d",
            "se_expand": "se/conv2d_1",
            "project_conv": "conv2d",
            "project_bn": "tpu_batch_normalization_1",
        },
        "widening": WIDENING,
        "conditional": WIDENING
        | {
            "routing": "dense",
            "expand_conv": "cond_conv2d",
            "dwconv": "depthwise_cond_conv2d",
            "project_conv": "cond_conv2d_1",
        },
        "fused": {
            "expand_conv": "conv2d",
            "expand_bn": "tpu_batch_normalization",
            "se_reduce": "se/conv2d",
            "se_expand": "se/conv2d_1",
            "project_conv": "conv2d_1",
            "project_bn": "tpu_batch_normalization_1",
        },
    },
    leaves={
        "kernel": "kernel",
        "DepthwiseConv2D/kernel": "depthwise_kernel",
        "CondConv2D/kernel": "condconv_kernel",
        "DepthwiseCondConv2D/kernel": "depthwise_condconv_kernel",
        **{leaf: leaf for leaf in ("bias", "gamma", "beta", "moving_mean", "moving_variance")},
    },
    flattens=True,
    extras=r"^global_step$|/(RMSProp|Momentum|LARS\w*)(_\d+)?$",
    rename=restart_counters,
    graph=("same", 1e-3),
)
