"""CondConv layers against a loop over the images with TensorFlow's own convolutions."""

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from support.reference import fill, reference_images

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.layers import FORMS, CondConv2D, DepthwiseCondConv2D, PerExpert

EXPERTS, CHANNELS, FILTERS = 3, 4, 6
CASES = [
    pytest.param(CondConv2D, {"filters": FILTERS, "kernel_size": 1}, id="pointwise"),
    pytest.param(CondConv2D, {"filters": FILTERS, "kernel_size": 3}, id="full"),
    pytest.param(CondConv2D, {"filters": FILTERS, "kernel_size": 1, "strides": 2}, id="pointwise_stride_2"),
    pytest.param(CondConv2D, {"filters": FILTERS, "kernel_size": 3, "strides": 2, "padding": "valid"}, id="full_valid"),
    pytest.param(DepthwiseCondConv2D, {"kernel_size": 3}, id="depthwise"),
    pytest.param(DepthwiseCondConv2D, {"kernel_size": 5, "strides": 2}, id="depthwise_stride_2"),
    pytest.param(CondConv2D, {"filters": FILTERS, "kernel_size": 1, "use_bias": True}, id="pointwise_bias"),
    pytest.param(DepthwiseCondConv2D, {"kernel_size": 3, "use_bias": True}, id="depthwise_bias"),
    pytest.param(DepthwiseCondConv2D, {"kernel_size": 5, "strides": 2, "padding": "valid"}, id="depthwise_valid"),
]


def make_inputs(batch=3, height=7, width=9):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, height, width, CHANNELS)).astype("float32")
    return tf.constant(features), tf.constant(rng.uniform(size=(batch, EXPERTS)).astype("float32"))


def make(kind, arguments):
    keras.utils.set_random_seed(1)
    layer = kind(experts=EXPERTS, **arguments)
    layer.build([(None, 7, 9, CHANNELS), (None, EXPERTS)])
    if layer.use_bias:
        layer.bias.assign(np.arange(1.0, 1.0 + layer.bias.shape[0]))
    return layer


def loop(layer, features, routing):
    """Mixes the kernels of each image by numpy and convolves it alone, by TensorFlow's own operations."""
    strides, padding = layer.strides, layer.padding.upper()
    outputs = []
    for image, weights in zip(features, routing, strict=True):
        kernel = tf.einsum("e,ehwio->hwio", weights, layer.kernel.value)
        convolve = tf.nn.depthwise_conv2d if isinstance(layer, DepthwiseCondConv2D) else tf.nn.conv2d
        outputs.append(convolve(image[None], kernel, [1, strides, strides, 1], padding))
        if layer.use_bias:
            outputs[-1] += layer.bias.value
    return tf.concat(outputs, axis=0)


def differentiate(function, layer, features, routing):
    with tf.GradientTape() as tape:
        tape.watch([features, routing])
        outputs = function(features, routing)
        loss = tf.reduce_sum(tf.sin(outputs))
    return [outputs, *tape.gradient(loss, [features, routing, layer.kernel.value])]


def assert_same(ours, theirs, tolerance=1e-5):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=tolerance * np.abs(their).max())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_each_image_is_convolved_with_its_own_mixture(kind, arguments, training):
    layer, inputs = make(kind, arguments), make_inputs()
    ours = differentiate(lambda *x: layer(x, training=training), layer, *inputs)
    theirs = differentiate(lambda *x: loop(layer, *x), layer, *inputs)
    assert_same(ours, theirs)
    assert tuple(ours[0].shape) == layer.compute_output_shape([x.shape for x in inputs])


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_one_graph_takes_every_batch_and_gives_the_eager_numbers(kind, arguments, compiled):
    layer = make(kind, arguments)
    size = 7 if compiled else None  # a depthwise gradient of unknown size is beyond XLA on the CPU
    signature = [tf.TensorSpec((None, size, size and 9, CHANNELS)), tf.TensorSpec((None, EXPERTS))]
    traced = tf.function(lambda *x: layer(x), input_signature=signature, jit_compile=compiled)
    for batch in (1, 3, 5):
        inputs = make_inputs(batch)
        assert_same([traced(*inputs)], [loop(layer, *inputs)])


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_symbolic_shapes_are_the_real_ones(kind, arguments):
    layer = kind(experts=EXPERTS, **arguments)
    unknown = layer([keras.Input((None, None, CHANNELS)), keras.Input((EXPERTS,))])
    known = layer([keras.Input((7, 9, CHANNELS)), keras.Input((EXPERTS,))])
    real = layer(make_inputs()).shape
    assert unknown.shape == (None, None, None, real[-1])
    assert known.shape == (None, *real[1:])


@pytest.mark.parametrize("kind", [CondConv2D, DepthwiseCondConv2D])
def test_mixed_precision_computes_in_half_precision_and_keeps_float32_weights(kind):
    arguments = {"kernel_size": 1, "filters": FILTERS} if kind is CondConv2D else {"kernel_size": 3}
    layer = make(kind, {**arguments, "dtype": "mixed_bfloat16"})
    features, routing = make_inputs()
    outputs = layer([features, routing])
    assert outputs.dtype == tf.bfloat16 and layer.kernel.dtype == "float32"
    assert_same([tf.cast(outputs, "float32")], [loop(layer, features, routing)], tolerance=2**-5)


@pytest.mark.parametrize(
    ("initializer", "shape", "deviation"),
    [
        # tensorflow/tpu, condconv_layers.py: the ordinary initialiser, sqrt(2 / fan_out), on the shape of one expert
        (
            keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            (8, 1, 1, 64, 256),
            np.sqrt(2 / 256),
        ),
        (keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"), (8, 5, 5, 900, 1), np.sqrt(2 / 25)),
        ("glorot_uniform", (8, 3, 3, 40, 60), np.sqrt(2 / (9 * 100))),
        (keras.initializers.RandomNormal(stddev=0.3), (8, 3, 3, 40, 60), 0.3),
        (keras.initializers.RandomNormal(stddev=0.3, seed=1), (8, 3, 3, 40, 60), 0.3),
    ],
)
def test_each_expert_is_initialized_with_the_fan_of_one_kernel(initializer, shape, deviation):
    keras.utils.set_random_seed(0)
    kernels = np.asarray(PerExpert(initializer)(shape))
    np.testing.assert_allclose(kernels.std(axis=(1, 2, 3, 4)), deviation, rtol=0.03)
    assert len({kernel.tobytes() for kernel in kernels}) == 8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_every_form_gives_the_same_outputs_with_the_same_weights(kind, arguments, form):
    layer, inputs = make(kind, arguments), make_inputs()
    other = layer.with_form(form)
    assert other.form == form and layer.form == "fold"
    assert [id(variable) for variable in other.trainable_variables] == [id(v) for v in layer.trainable_variables]
    assert_same([other(inputs)], [loop(layer, *inputs)])


def test_a_configuration_from_before_forms_existed_is_loaded():
    configuration = CondConv2D(FILTERS, 1, EXPERTS).get_config()
    del configuration["form"]
    assert CondConv2D.from_config(configuration).form == "fold"


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_config_round_trip_needs_no_custom_objects(kind, arguments):
    layer = kind(experts=EXPERTS, name="conv", **arguments)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is kind
    assert copy.get_config() == layer.get_config()
    assert {key: getattr(copy, key) for key in arguments} == arguments and copy.experts == EXPERTS


def test_invalid_arguments_and_routings_are_errors():
    with pytest.raises(ValueError, match="`experts` must be a whole number, at least 1. Received: experts=0"):
        CondConv2D(8, 1, experts=0)
    with pytest.raises(ValueError, match=r"`kernel_size` must be a whole number, .* Received: kernel_size=\(3, 3\)"):
        DepthwiseCondConv2D((3, 3), experts=3)
    with pytest.raises(ValueError, match="`padding` must be 'same' or 'valid'. Received: padding='VALID'"):
        DepthwiseCondConv2D(3, experts=3, padding="VALID")
    with pytest.raises(ValueError, match="`form` must be one of fold, mix, sum. Received: form='mixed'"):
        DepthwiseCondConv2D(3, experts=3, form="mixed")
    with pytest.raises(ValueError, match=r"`routing` must be \[batch, 3\], as `experts`. Received: shape=\(None, 4\)"):
        CondConv2D(8, 1, experts=3)([keras.Input((7, 7, 4)), keras.Input((4,))])


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    row = VARIANTS["efficientnet-condconv-b0-4e"]._replace(width=0.25, resolution=32)
    return fill(models.make_model(row, classes=10, classifier_activation=None))


def test_the_last_three_stages_mix_and_share_one_routing_a_block(network):
    # Yang et al. 2019, section 4.2, and tensorflow/tpu, condconv: `_cc` on the last three stages, one routing a block
    mixing = {layer.name for layer in network.layers if isinstance(layer, (CondConv2D, DepthwiseCondConv2D))}
    blocks = ["5a", "5b", "5c", "6a", "6b", "6c", "6d", "7a"]
    pieces = ("expand_conv", "dwconv", "project_conv")
    assert mixing == {f"block{block}_{piece}" for block in blocks for piece in pieces}
    routings = [layer for layer in network.layers if layer.name.endswith("_routing")]
    assert [layer.name for layer in routings] == [f"block{block}_routing" for block in blocks]
    assert {layer.activation.__name__ for layer in routings} == {"sigmoid"}
    for block in blocks:
        used = {network.get_layer(f"block{block}_{piece}").input[1] for piece in pieces}
        assert used == {network.get_layer(f"block{block}_routing").output}


def test_the_routing_is_computed_from_the_input_of_the_block(network):
    first = network.get_layer("block5a_routing_pool")
    assert first.input is network.get_layer("block4c_add").output


def test_images_of_a_batch_do_not_affect_each_other(network):
    images = reference_images(3, 32, 32)
    together = network(images, training=False).numpy()
    alone = np.concatenate([network(image[None], training=False).numpy() for image in images])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())
    assert np.abs(together[0] - together[1]).max() > 0.01 * np.abs(alone).max()


@pytest.fixture(scope="module")
def mixed():
    """A classifier of all kinds of CondConv layers, and images that it tells apart."""
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 3))
    routing = keras.layers.Dense(4, "sigmoid")(keras.layers.GlobalAveragePooling2D()(image))
    features = CondConv2D(8, kernel_size=3, experts=4, strides=2)([image, routing])
    features = DepthwiseCondConv2D(kernel_size=3, experts=4, use_bias=True)([features, routing])
    features = keras.layers.Flatten()(CondConv2D(8, kernel_size=1, experts=4)([features, routing]))
    model = keras.Model(image, keras.layers.Dense(5, "softmax")(features))
    images = np.random.default_rng(0).normal(0, 2, (3, 8, 8, 3)).astype("float32")
    assert np.ptp(model(images), axis=0).max() > 0.1
    return model, images


def run_tflite(content, images):
    interpreter = Interpreter(model_content=content)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.filterwarnings("ignore")  # TensorFlow deprecates what its converter uses
@pytest.mark.parametrize("optimizations", [[], [tf.lite.Optimize.DEFAULT]], ids=["float32", "dynamic"])
def test_the_tflite_converter_of_tensorflow_takes_the_layers(mixed, optimizations):
    model, images = mixed
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = optimizations
    found = run_tflite(converter.convert(), images)
    np.testing.assert_allclose(found, model(images), atol=0.01 if optimizations else 1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Keras 3.15 asks NumPy for np.object
def test_the_onnx_exporter_of_keras_takes_the_layers(mixed, tmp_path):
    model, images = mixed
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [found] = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(found, model(images), atol=1e-5)
