"""Reads, changes and writes the content of TFLite files, as objects of their schema."""

import collections
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

WITH_KERNEL = {
    schema.BuiltinOperator.BATCH_MATMUL: "BATCH_MATMUL",
    schema.BuiltinOperator.CONV_2D: "CONV_2D",
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: "DEPTHWISE_CONV_2D",
    schema.BuiltinOperator.FULLY_CONNECTED: "FULLY_CONNECTED",
}
ELEMENTWISE = (schema.BuiltinOperator.ADD, schema.BuiltinOperator.MUL, schema.BuiltinOperator.SUB)
DEQUANTIZING = (schema.BuiltinOperator.DEQUANTIZE,)
FLOATS = {schema.TensorType.FLOAT32: "float32", schema.TensorType.FLOAT16: "float16"}
SHORT = 16  # constants with fewer numbers than this do not fill a vector register


def read(content: bytes) -> Any:
    """Returns the ModelT of a file, with all weights in it: ai-edge-quantizer writes them behind the flatbuffer."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write(model: Any) -> bytes:
    """Returns the content of a file with this ModelT."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def accept_bytes(content: bytes) -> bytes:
    """Returns the file with an input for bytes: uint8, scale 1 and zero point 0, converted to the float input."""
    model = read(content)
    [graph] = model.subgraphs
    [index] = graph.inputs
    image = schema.TensorT()
    floating = graph.tensors[index]
    image.name, floating.name = floating.name, floating.name + b"_float"
    image.shape, image.shapeSignature = floating.shape, floating.shapeSignature
    image.type, image.buffer = schema.TensorType.UINT8, 0
    image.quantization = schema.QuantizationParametersT()
    image.quantization.scale, image.quantization.zeroPoint = [1.0], [0]
    graph.tensors.append(image)
    graph.inputs = [len(graph.tensors) - 1]
    step = schema.OperatorT()
    step.opcodeIndex = _dequantize(model)
    step.inputs, step.outputs = graph.inputs, [index]
    graph.operators.insert(0, step)
    for signature in model.signatureDefs:
        signature.inputs[0].tensorIndex = graph.inputs[0]
    return write(model)


def widen_constants(content: bytes) -> bytes:
    """Returns the file with constants per channel, such as those of the normalization, repeated for a row of pixels.

    LiteRT processes an image in runs of the constant's length: with three numbers at a time, this took 6 % of B0's
    time.
    """
    model = read(content)
    for graph in model.subgraphs:
        _widen_constants(model, graph)
    return write(model)


def _widen_constants(model, graph):
    stored = {int(step.outputs[0]): step.inputs[0] for step in graph.operators if _is(model, step, DEQUANTIZING)}
    for step in graph.operators:
        if not _is(model, step, ELEMENTWISE):
            continue
        image, constant = (graph.tensors[index] for index in step.inputs)
        values = _constant(model, graph.tensors[stored.get(int(step.inputs[1]), step.inputs[1])])
        if values is None or len(image.shape) != 4 or values.shape != (image.shape[-1],) or len(values) >= SHORT:
            continue
        row, buffer = schema.TensorT(), schema.BufferT()
        row.name, row.type, row.buffer = constant.name + b"_row", schema.TensorType.FLOAT32, len(model.buffers)
        row.shape = [1, 1, int(image.shape[2]), len(values)]
        buffer.data = np.frombuffer(np.tile(values, row.shape[2]).astype("float32").tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(row)
        step.inputs = [step.inputs[0], len(graph.tensors) - 1]


def check_kernels(content: bytes) -> None:
    """Raises RuntimeError if a computed kernel, as CondConv can have, is quantized.

    The quantizer treats such a kernel as an activation, with one scale and a zero point: convolutions then give wrong
    numbers without an error.
    """
    model = read(content)
    [graph] = model.subgraphs
    for step in graph.operators:
        name = WITH_KERNEL.get(_code(model.operatorCodes[step.opcodeIndex]))
        if name is None:
            continue
        kernel = graph.tensors[step.inputs[1]]
        data = model.buffers[kernel.buffer].data
        if kernel.type not in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16) and (
            data is None or not len(data)
        ):
            raise RuntimeError(
                f"The kernel {kernel.name.decode()} of a {name} is computed, and quantized: its numbers would be "
                "wrong. Nothing was written."
            )


def computed_tensors(content: bytes) -> dict[int, str]:
    """Returns the float outputs of the file's operations, and its input: index -> name."""
    [graph] = read(content).subgraphs
    indices = {*graph.inputs, *(index for step in graph.operators for index in step.outputs)}
    tensors = {int(index): graph.tensors[index] for index in indices}
    return {
        index: tensor.name.decode() for index, tensor in tensors.items() if tensor.type == schema.TensorType.FLOAT32
    }


def describe_types(content: bytes) -> str:
    """Returns the bytes of weights and the number of operations of each type, in words."""
    model = read(content)
    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if name.isupper()}
    sizes: collections.Counter[str] = collections.Counter()
    operations: collections.Counter[str] = collections.Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            sizes[types[tensor.type]] += 0 if data is None else len(data)
        operations.update(types[graph.tensors[step.outputs[0]].type] for step in graph.operators)
    weights = ", ".join(f"{size / 1e6:.2f} MB {name}" for name, size in sizes.most_common() if size >= 1e4)
    return f"weights {weights}; operations " + ", ".join(f"{n} {name}" for name, n in operations.most_common())


def _is(model, step, operators) -> bool:
    return _code(model.operatorCodes[step.opcodeIndex]) in operators


def _constant(model, tensor) -> np.ndarray | None:
    """Returns the numbers of a constant float tensor, or None."""
    data, dtype = model.buffers[tensor.buffer].data, FLOATS.get(tensor.type)
    if data is None or not len(data) or dtype is None:
        return None
    return np.frombuffer(bytes(bytearray(data)), dtype).reshape(tensor.shape)


def _code(row) -> int:
    return max(row.builtinCode, row.deprecatedBuiltinCode)


def _dequantize(model) -> int:
    """Returns the index of DEQUANTIZE in the file's table of operations, after adding it if it is missing."""
    operator = schema.BuiltinOperator.DEQUANTIZE
    codes = [_code(row) for row in model.operatorCodes]
    if operator not in codes:
        row = schema.OperatorCodeT()
        row.builtinCode = row.deprecatedBuiltinCode = operator
        row.version = 2
        model.operatorCodes.append(row)
        codes.append(operator)
    return codes.index(operator)
