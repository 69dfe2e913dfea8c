"""TFLite files in all precisions in the interpreter, against the model in Keras; errors."""

import os
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from support.classifiers import NETWORKS, draw_images, train_small
from support.exports import make_small
from support.images import random_images

from keras_efficientnet import export
from keras_efficientnet.export import flatbuffer
from keras_efficientnet.layers import CondConv2D, DepthwiseCondConv2D

QUANTIZATIONS = ("none", "float16", "dynamic", "int8", "int16x8")
KINDS = [pytest.param(kind, marks=[] if kind in ("b0", "condconv") else pytest.mark.slow) for kind in NETWORKS]
IMAGES = draw_images(40, seed=3)[0]


@pytest.fixture(scope="module")
def networks():
    """Small networks, trained when they are first requested."""
    return train_small


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    """Files of the small networks, written when they are first requested."""
    folder = tmp_path_factory.mktemp("files")

    def get(kind, quantize, input_dtype="float32"):
        path = folder / f"{kind}.{quantize}.{input_dtype}"
        if not path.exists():
            images = draw_images(40)[0] if quantize in ("int8", "int16x8") else None
            export.to_tflite(networks(kind), path, quantize=quantize, input_dtype=input_dtype, images=images)
        return path

    return get


def moved_probability(found, expected):
    """Of the probability, what goes to other classes than expected; on average over the images."""
    return np.abs(found - expected).sum(axis=1).mean() / 2


@pytest.mark.parametrize(
    ("quantize", "input_dtype"), [(name, "float32") for name in QUANTIZATIONS] + [("none", "uint8"), ("int8", "uint8")]
)
def test_a_file_has_the_documented_types_and_names(files, quantize, input_dtype):
    interpreter = Interpreter(os.fspath(files("b0", quantize, input_dtype)))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["inputs"], "outputs": ["probabilities"]}}
    [image], [scores] = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], image["shape"].tolist()) == (np.dtype(input_dtype), [1, 32, 32, 3])
    assert (scores["dtype"], scores["shape"].tolist()) == (np.float32, [1, 10])
    if input_dtype == "uint8":
        assert image["quantization"] == (1.0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("quantize", "most"), [("float16", 0.005), ("dynamic", 0.03), ("int8", 0.1)])
def test_a_quantized_file_gives_nearly_the_probabilities_of_the_model(networks, files, kind, quantize, most):
    expected = np.asarray(networks(kind)(IMAGES, training=False))
    found = export.load_tflite(files(kind, quantize))(IMAGES)
    assert moved_probability(found, expected) < most
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.97


def test_activations_of_16_bits_are_nearly_those_of_the_model(networks, files):
    expected = np.asarray(networks("b0")(IMAGES[:10], training=False))
    assert moved_probability(export.load_tflite(files("b0", "int16x8"))(IMAGES[:10]), expected) < 0.02


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_bytes_and_floats_give_the_same_probabilities(files, quantize):
    images = IMAGES[:3]
    runner = Interpreter(os.fspath(files("b0", quantize, "uint8"))).get_signature_runner("serving_default")
    found = [runner(inputs=image[np.newaxis].astype("uint8"))["probabilities"][0] for image in images]
    np.testing.assert_allclose(found, export.load_tflite(files("b0", quantize))(images), atol=1e-5)


def test_a_loaded_file_for_bytes_accepts_floats_and_clips_them(files):
    images = IMAGES[:2].copy()
    images[:, 0, 0] = 0, 255, 255
    beyond = images.copy()
    beyond[:, 0, 0] = -40, 300, 255.2
    classify = export.load_tflite(files("b0", "none", "uint8"), threads=1)
    np.testing.assert_array_equal(classify(beyond), classify(images))


@pytest.mark.parametrize(("quantize", "most"), [("float16", 0.6), ("dynamic", 0.55), ("int8", 0.55)])
def test_a_quantized_file_is_smaller(files, quantize, most):
    assert files("b0", quantize).stat().st_size < most * files("b0", "none").stat().st_size


def kernels(path):
    """(operation, type, numbers that the file holds) of what each convolution and dense layer multiplies with."""
    model = flatbuffer.read(path.read_bytes())
    [graph] = model.subgraphs
    for step in graph.operators:
        code = model.operatorCodes[step.opcodeIndex]
        name = flatbuffer.WITH_KERNEL.get(max(code.builtinCode, code.deprecatedBuiltinCode))
        if name:
            tensor = graph.tensors[step.inputs[1]]
            data = model.buffers[tensor.buffer].data
            yield name, tensor, 0 if data is None else len(data)


def operations(path):
    """(name, operator) of each, and the file's tensors and buffers."""
    model = flatbuffer.read(path.read_bytes())
    [graph] = model.subgraphs
    names = {number: name for name, number in vars(flatbuffer.schema.BuiltinOperator).items() if name.isupper()}
    codes = [names[max(row.builtinCode, row.deprecatedBuiltinCode)] for row in model.operatorCodes]
    return [(codes[step.opcodeIndex], step) for step in graph.operators], graph.tensors, model.buffers


@pytest.mark.parametrize("quantize", ["none", "float16", "int8"])
def test_the_normalization_processes_a_row_of_pixels_at_a_time(networks, files, quantize):
    """Three numbers at a time took 6 % of B0's time."""
    steps, tensors, buffers = operations(files("b0", quantize))
    constants = [tensors[step.inputs[1]] for name, step in steps if name in ("MUL", "ADD")][:2]
    assert [[*tensor.shape] for tensor in constants] == [[1, 1, 32, 3]] * 2
    layer = networks("b0").get_layer("normalization")
    for tensor, values in zip(constants, (layer.scale, layer.offset), strict=True):
        stored = np.frombuffer(bytes(bytearray(buffers[tensor.buffer].data)), "float32").reshape(32, 3)
        np.testing.assert_allclose(stored, [values] * 32, rtol=1e-3 if quantize == "float16" else 1e-6)


@pytest.mark.parametrize(("quantize", "each"), [("none", 1), ("float16", 1), ("dynamic", 4), ("int8", 4)])
def test_condconv_mixes_kernels_except_in_quantized_files(networks, files, quantize, each):
    names = [name for name, _ in operations(files("condconv", quantize))[0]]
    filters = [layer for layer in networks("condconv").layers if "Depthwise" in type(layer).__name__]
    mixtures = [layer for layer in filters if isinstance(layer, DepthwiseCondConv2D)]
    assert mixtures
    assert names.count("DEPTHWISE_CONV_2D") == len(filters) - len(mixtures) + each * len(mixtures)
    assert "ADD_N" not in names  # LiteRT's fast kernels have none


@pytest.mark.parametrize("kind", ["b0", "condconv"])
@pytest.mark.parametrize("quantize", ["dynamic", "int8"])
def test_kernels_are_constants_of_8_bits_with_per_channel_scales(networks, files, kind, quantize):
    found = [*kernels(files(kind, quantize))]
    assert all(stored for *_, stored in found)  # none is computed, CondConv's neither
    convolutions = [tensor for name, tensor, stored in found if "CONV" in name and np.prod(tensor.shape) > 1024]
    assert convolutions and all(tensor.type == flatbuffer.schema.TensorType.INT8 for tensor in convolutions)
    assert all(len(tensor.quantization.scale) in tensor.shape for tensor in convolutions)
    assert min(len(tensor.quantization.scale) for tensor in convolutions) > 1
    experts = [layer for layer in networks(kind).layers if isinstance(layer, (CondConv2D, DepthwiseCondConv2D))]
    assert bool(experts) == (kind == "condconv")


def test_a_file_with_a_quantized_computed_kernel_is_refused(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(export.tflite, "find_form", lambda *_: "fold")
    with pytest.raises(RuntimeError, match="is computed, and quantized"):
        export.to_tflite(networks("condconv"), tmp_path / "new", quantize="int8", images=IMAGES)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("kind", "quantize"), [("b0", "int8"), ("condconv", "none"), ("condconv", "int8")])
def test_a_file_with_a_dynamic_batch_takes_any_number_of_images(networks, files, tmp_path, kind, quantize):
    path = tmp_path / "any.tflite"
    export.to_tflite(networks(kind), path, quantize=quantize, images=draw_images(40)[0], dynamic_batch=True)
    one_by_one = export.load_tflite(files(kind, quantize))
    classify = export.load_tflite(path)
    for count in (3, 1):
        assert moved_probability(classify(IMAGES[:count]), one_by_one(IMAGES[:count])) < 0.02


def test_weights_are_in_the_flatbuffer(tmp_path):
    """ai-edge-quantizer writes those of 256 kB and more behind it, where programs that rewrite a file lose them."""
    wide = make_small(layer=keras.layers.Dense(40_000))
    export.to_tflite(wide, tmp_path / "wide.tflite", quantize="int8", images=random_images(4))
    content = (tmp_path / "wide.tflite").read_bytes()
    assert len(content) > 700_000
    model = flatbuffer.schema.ModelT.InitFromPackedBuf(content, 0)
    assert not [buffer for buffer in model.buffers if buffer.offset > 1]


def test_ranges_exclude_outliers_of_activations_but_none_of_the_input(files, networks):
    model = networks("b0")
    images = random_images(6) * np.reshape([0.5, 0.5, 0.5, 0.5, 0.5, 0.7], (6, 1, 1, 1))
    ranges = export.quantization.find_ranges(files("b0", "none").read_bytes(), images.astype("float32"))

    def find(part):
        [row] = [row for name, row in ranges.items() if part in name]
        return row["min"].item(), row["max"].item()

    values = np.asarray(keras.Model(model.input, model.get_layer("stem_activation").output)(images)).reshape(6, -1)
    highs = values.max(axis=1)
    assert find("stem_activation_1/mul")[1] == pytest.approx(min(highs.mean() + highs.std() / 2, highs.max()), rel=1e-4)
    black, white = (
        np.asarray(model.get_layer("normalization")(np.full((1, 1, 1, 3), value))) for value in (0.0, 255.0)
    )
    assert find("normalization_1/add") == pytest.approx((black.min(), white.max()), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "Unknown `quantize` 'int4'. Choose one of: none, float16, dynamic, int8, int16x8"),
        ({"input_dtype": "int8"}, "Unknown `input_dtype` 'int8'. Choose one of: float32, uint8"),
        ({"quantize": "int8"}, "`quantize=int8` needs `images`"),
        ({"quantize": "int8", "images": random_images(0)}, "at least one"),
        ({"quantize": "int8", "images": random_images(2, 64, 32)}, r"must be \[n, 32, 32, 3\]"),
        ({"quantize": "int8", "images": random_images(2) / 255}, "pixels from 0 to 255"),
        ({"labels": ["one"] * 9}, "must name the 10 classes"),
    ],
)
def test_invalid_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export.to_tflite(make_small(), tmp_path / "new", **options)
    assert not [*tmp_path.iterdir()]


def test_int8_without_its_package_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    with pytest.raises(ImportError, match=r'pip install "keras_efficientnet\[export\]"'):
        export.to_tflite(make_small(), tmp_path / "new", quantize="int8", images=random_images(2))
    assert not [*tmp_path.iterdir()]


def test_a_quantized_file_with_other_probabilities_is_removed(networks, tmp_path, monkeypatch):
    convert = export.tflite.convert
    other = keras.models.clone_model(networks("b0"))
    monkeypatch.setattr(export.tflite, "convert", lambda model, *others, **named: convert(other, *others, **named))
    with pytest.raises(RuntimeError, match="of the probability to other classes"):
        export.to_tflite(networks("b0"), tmp_path / "new", quantize="float16", images=IMAGES)
    assert not [*tmp_path.iterdir()]
