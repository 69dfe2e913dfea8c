"""A TFLite file in float32 -> one in int8, by the recipe that keeps the accuracy of networks trained here.

Of the recipes that were measured on trained networks (README, "On a phone"), the one that is fast, small and right:

- Convolutions and what lies between them: whole numbers of 8 bits, each channel of a kernel with a scale of its own.
- The normalisation: float32, so that pixels a little beyond 0 to 255, which cubic resizing makes, are not cut off.
- Squeeze-excite's two layers, CondConv's routing, the last convolution and the classifier: kernels of 8 bits too, but
  what goes through them in float32. They are a twentieth of the work. The last maps have a few large values, whose
  scale leaves nothing of the others, and the probabilities of many classes are too small for steps of 1/256.
- The sum of CondConv's experts, and its bias: float32. Its kernels must not be computed (see
  `flatbuffer.check_kernels`): each expert is a convolution.
- The range of a tensor goes from the mean over the images of the smallest value of each to that of the largest, and
  half a standard deviation further. The extremes over all images make the steps too wide: up to four times the error.
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
MARGIN = 0.5  # of a range, in standard deviations over the images
ENTRANCE = re.compile(r".*/normalization(_\d+)?/")  # names of tensors have those of layers in them
FLOATING = r".*/(normalization|\w+_se_(reduce|expand)|\w+_routing|top_|avg_pool|predictions).*"
MIXED = r".*_(dwconv|conv)(_\d+)?/(add|mul).*"  # CondConv's sum of experts and its bias


def to_int8(content: bytes, images: np.ndarray) -> bytes:
    """Quantises a file of `to_tflite` in float32; float32 in and out.

    Args:
        content: of the file; it keeps the names of the layers, and has no computed kernels.
        images: to find the ranges of the activations on, float32 [n, height, width, channels] from 0 to 255.

    Raises:
        ImportError: ai-edge-quantizer is not installed.
        RuntimeError: a computed kernel was quantised.
    """
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise ImportError('Quantising to int8 needs: pip install "keras_efficientnet[export]"') from error
    ranges = find_ranges(content, images)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # of its interpreter, and its progress
        warnings.simplefilter("ignore")
        worker = quantizer.Quantizer(bytearray(content), _recipe())
        result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    quantized = bytes(result.quantized_model)
    flatbuffer.check_kernels(quantized)
    return quantized


def find_ranges(content: bytes, images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """For each tensor "min", the mean over `images` of its smallest value less `MARGIN` deviations, and so "max".

    Not beyond the extremes of all images. What enters the network, pixels normalised or as they are, has those of all
    images, of black and of white: else bright pixels would be cut off where the images happen to be dark.
    """
    interpreter = _make_interpreter(content)
    [inputs] = interpreter.get_input_details()
    names = flatbuffer.computed_tensors(content)
    extremes = np.array([_find_extremes(interpreter, inputs["index"], names, image) for image in images])
    bounds = [np.full_like(images[0], value) for value in (0, 255)]
    whole = np.array([_find_extremes(interpreter, inputs["index"], names, image) for image in bounds])
    whole = np.concatenate([extremes, whole])
    ranges = {}
    for place, (index, name) in enumerate(names.items()):
        low, high = _cut_off_outliers(*extremes[:, place].T)
        if index == inputs["index"] or ENTRANCE.match(name):
            low, high = whole[:, place, 0].min(), whole[:, place, 1].max()
        shape = (1,) * interpreter.get_tensor(index).ndim
        ranges[name] = {"min": np.full(shape, low, "float32"), "max": np.full(shape, high, "float32")}
    return ranges


def _cut_off_outliers(lows, highs) -> tuple[float, float]:
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
    """The smallest and the largest value of each of some tensors, for one image."""
    interpreter.set_tensor(input_index, image[np.newaxis])
    interpreter.invoke()
    tensors = [interpreter.get_tensor(index) for index in indices]
    return [(tensor.min(), tensor.max()) for tensor in tensors]


def _recipe() -> list[dict[str, Any]]:
    """Of ai-edge-quantizer: a later row overrules those before it. It matches the names of tensors."""
    from ai_edge_quantizer import qtyping, recipe

    operation = qtyping.TFLOperationName
    [static], [dynamic] = recipe.static_wi8_ai8(), recipe.dynamic_wi8_afp32()
    return [
        static,
        _leave(FLOATING, operation.ALL_SUPPORTED),
        *(dynamic | {"regex": FLOATING, "operation": name} for name in (operation.CONV_2D, operation.FULLY_CONNECTED)),
        *(_leave(MIXED, name) for name in (operation.ADD, operation.MUL)),
        *(_leave(".*", name) for name in (operation.SOFTMAX, operation.INPUT, operation.OUTPUT)),
    ]


def _leave(regex, operation) -> dict[str, Any]:
    return {"regex": regex, "operation": operation, "algorithm_key": "no_quantize"}
