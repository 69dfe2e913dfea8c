"""Quantizes a float32 TFLite file to int8, by a recipe that keeps the accuracy of EfficientNets.

Of the recipes measured on trained networks, this one is fast, small and accurate:

- Convolutions and the operations between them use 8-bit integers, with per-channel scales for kernels.
- The normalization stays in float32, so that pixels slightly outside 0 to 255, as bicubic resizing gives, are not
  clipped.
- The two layers of squeeze-and-excite, CondConv's routing, the last convolution and the classifier have 8-bit kernels
  and float32 activations. They are a twentieth of the work. The last feature maps have a few large values, whose scale
  would round the others to zero, and the probabilities of many classes are too small for steps of 1/256.
- The sum of CondConv's experts and its bias stay in float32. Its kernels must not be computed (see
  `flatbuffer.check_kernels`): each expert is a convolution.
- The range of a tensor is the mean over the images of their smallest and largest values, widened by half a standard
  deviation. The extremes over all images make the steps too wide: up to four times the error.
"""

import contextlib
import io
import re
import warnings
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_efficientnet.export import flatbuffer

THREADS = 2
MARGIN = 0.5  # added to a range, in standard deviations over the images
# Names of tensors contain the names of their layers.
INPUT = re.compile(r".*/normalization(_\d+)?/")
FLOATING = r".*/(normalization|\w+_se_(reduce|expand)|\w+_routing|top_|avg_pool|predictions).*"
MIXED = r".*_(dwconv|conv)(_\d+)?/(add|mul).*"  # CondConv's sum of experts and its bias


def to_int8(content: bytes, images: np.ndarray) -> bytes:
    """Returns the quantized content of a float32 TFLite file; input and output stay float32.

    Args:
        content: content of a file by `to_tflite`, with the names of the layers and without computed kernels.
        images: calibration images for the ranges of the activations, float32 [n, height, width, channels] from 0 to
            255.

    Raises:
        ImportError: ai-edge-quantizer is not installed.
        RuntimeError: a computed kernel was quantized.
    """
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise ImportError('Quantizing to int8 needs: pip install "keras_efficientnet[export]"') from error
    ranges = find_ranges(content, images)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # of its interpreter and progress bar
        warnings.simplefilter("ignore")
        worker = quantizer.Quantizer(bytearray(content), _recipe())
        result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    quantized = bytes(result.quantized_model)
    flatbuffer.check_kernels(quantized)
    return quantized


def find_ranges(content: bytes, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Returns the range of each tensor, "min" and "max".

    "min" is the mean over the images of the tensor's smallest value minus `MARGIN` standard deviations, "max"
    correspondingly, both within the extremes of all images. Pixels, raw or normalized, get the extremes of all images,
    of black and of white: otherwise bright pixels would be clipped if the calibration images are dark.
    """
    interpreter = _make_interpreter(content)
    [inputs] = interpreter.get_input_details()
    names = flatbuffer.computed_tensors(content)
    extremes = np.array([_find_extremes(interpreter, inputs["index"], names, image) for image in images])
    black_and_white = [np.full_like(images[0], value) for value in (0, 255)]
    bounds = np.array([_find_extremes(interpreter, inputs["index"], names, image) for image in black_and_white])
    bounds = np.concatenate([extremes, bounds])
    ranges = {}
    for place, (index, name) in enumerate(names.items()):
        low, high = _clip_outliers(*extremes[:, place].T)
        if index == inputs["index"] or INPUT.match(name):
            low, high = bounds[:, place, 0].min(), bounds[:, place, 1].max()
        shape = (1,) * interpreter.get_tensor(index).ndim
        ranges[name] = {"min": np.full(shape, low, "float32"), "max": np.full(shape, high, "float32")}
    return ranges


def _clip_outliers(lows, highs) -> tuple[float, float]:
    low, high = lows.mean() - MARGIN * lows.std(), highs.mean() + MARGIN * highs.std()
    return max(low, lows.min()), min(high, highs.max())


def _make_interpreter(content) -> Interpreter:
    interpreter = Interpreter(
        model_content=content,
        num_threads=THREADS,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter


def _find_extremes(interpreter, input_index, indices, image) -> list[tuple[float, float]]:
    """Returns the smallest and the largest value of each of the tensors, for one image."""
    interpreter.set_tensor(input_index, image[np.newaxis])
    interpreter.invoke()
    tensors = [interpreter.get_tensor(index) for index in indices]
    return [(tensor.min(), tensor.max()) for tensor in tensors]


def _recipe() -> list[dict[str, Any]]:
    """Returns the recipe for ai-edge-quantizer. Rows match the names of tensors; later rows overrule earlier ones."""
    from ai_edge_quantizer import qtyping, recipe

    operation = qtyping.TFLOperationName
    [static], [dynamic] = recipe.static_wi8_ai8(), recipe.dynamic_wi8_afp32()
    weights_only = [
        dynamic | {"regex": FLOATING, "operation": name} for name in (operation.CONV_2D, operation.FULLY_CONNECTED)
    ]
    mixtures = [_keep_float(MIXED, name) for name in (operation.ADD, operation.MUL)]
    ends = [_keep_float(".*", name) for name in (operation.SOFTMAX, operation.INPUT, operation.OUTPUT)]
    return [static, _keep_float(FLOATING, operation.ALL_SUPPORTED), *weights_only, *mixtures, *ends]


def _keep_float(regex, operation) -> dict[str, Any]:
    return {"regex": regex, "operation": operation, "algorithm_key": "no_quantize"}
