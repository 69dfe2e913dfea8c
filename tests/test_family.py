"""Every network of the family has every property that users rely on, at 64 pixels and with 5 classes.

By default a small network of each kind runs; `pytest -m slow` runs all networks at full size.
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.family import EXPORTED, IMAGES, predict, spread
from support.reference import fill, reference_images

import keras_efficientnet as ke
from keras_efficientnet import export, models
from keras_efficientnet.architectures import CONDCONV_STAGES, VARIANTS, blocks

pytestmark = pytest.mark.usefixtures("zero_kernels")
KINDS = ("efficientnet-b0", "efficientnet-condconv-b0-4e", "efficientnet-b1-pruned", "efficientnet-lite0")
KINDS += ("efficientnet-edgetpu-S", "efficientnet-b0-torch")


def small(name):
    """Returns the row of a network with ten narrow blocks, or with ten of the pruned blocks."""
    row = VARIANTS[name]._replace(depth=0.5)
    if row.pruned is None:
        return row._replace(width=0.25)
    stages = zip(row.pruned, (math.ceil(stage.repeats * row.depth) for stage in row.stages), strict=True)
    return row._replace(pruned=tuple(x._replace(wide=x.wide[:n], squeezed=x.squeezed[:n]) for x, n in stages))


MEMBERS = [pytest.param(small(name), id=f"small-{name}") for name in KINDS]
MEMBERS += [pytest.param(row, id=name, marks=pytest.mark.slow) for name, row in VARIANTS.items()]


@pytest.fixture(scope="module", params=MEMBERS)
def member(request):
    """A row, and the network with reference weights, built once for all properties."""
    return request.param, spread(fill(make(request.param)))


def make(row, **arguments):
    return models.make_model(row, **{"classes": 5, "input_shape": (None, None, 3), **arguments})


def assert_close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_one_graph_accepts_any_batch_and_image_size(member):
    _, model = member
    assert model.input_shape == (None, None, None, 3)
    traced = tf.function(lambda x: model(x, training=False), [tf.TensorSpec((None, None, None, 3))])
    for images in (IMAGES, IMAGES[:1], reference_images(3, 75, 98)):
        outputs = predict(model, images)
        assert_close(traced(images), outputs, 1e-4)
        np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
        assert_close(outputs, np.concatenate([predict(model, image[None]) for image in images]), 1e-4)


def test_every_trainable_variable_gets_a_gradient(member):
    _, model = member
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.math.log(model(IMAGES, training=False))[:, 1])
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


def test_features_have_the_strides_and_channels_of_the_table(member):
    row, model = member
    ends = ke.features(model)
    assert ends.get_layer("stem_conv") is model.get_layer("stem_conv")
    specs = blocks(row)
    last = [spec for spec, after in zip(specs, specs[1:], strict=False) if after.stride == 2] + [specs[-1]]
    images = reference_images(2, 75, 98)
    maps = ends(images, training=False)
    sizes = [(38, 49), (19, 25), (10, 13), (5, 7), (3, 4)]  # 75 and 98 halved five times, rounded up
    assert [*maps] == ["P1", "P2", "P3", "P4", "P5"]
    for x, size, spec in zip(maps.values(), sizes, last, strict=True):
        assert tuple(x.shape) == (2, *size, spec.filters_out)
    loaded = keras.Model.from_config(model.get_config())
    assert [x.shape for x in ke.features(loaded).outputs] == [x.shape for x in ends.outputs]


def test_a_keras_file_restores_the_model(member, tmp_path):
    _, model = member
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded), predict(model))


def test_mixed_bfloat16_predicts_close_to_float32(member, set_policy):
    row, model = member
    set_policy("mixed_bfloat16")
    half = make(row)
    half.set_weights(model.get_weights())
    outputs = predict(half)
    assert outputs.dtype == "float32"
    # 7 bits through up to 88 blocks: probabilities differ by up to 0.2; different networks are not correlated at all
    logs = [np.log(x).ravel() for x in (outputs, predict(model))]
    assert np.corrcoef(*logs)[0, 1] > 0.9


def test_xla_compiles_the_network(member):
    _, model = member
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    assert_close(compiled(IMAGES), predict(model), 1e-4)


def check_exports(model, folder):
    """Exports the model, and compares the outputs; the exporters compare them too.

    Rounding gives 1e-6 of the largest feature, as between one image and two in Keras; `spread` triples it.
    """
    assert export.to_saved_model(model, folder / "saved_model") < 5e-5
    assert export.to_tflite(model, folder / "one.tflite") < 5e-5
    assert export.to_tflite(model, folder / "any.tflite", dynamic_batch=True) < 5e-5
    for name in ("saved_model", "one.tflite", "any.tflite"):
        load = export.load_tflite if name.endswith(".tflite") else export.load_saved_model
        assert_close(load(folder / name)(IMAGES), predict(model), 1e-4)


@pytest.mark.parametrize("name", EXPORTED)
def test_saved_model_and_tflite_give_the_outputs_of_the_network(name, tmp_path):
    check_exports(spread(fill(make(VARIANTS[name], input_shape=(64, 64, 3)))), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_experts_are_exported_for_one_image_and_for_any_batch(tmp_path, padding):
    stages = CONDCONV_STAGES[:2] + CONDCONV_STAGES[5:]  # two of the four have experts
    row = VARIANTS["efficientnet-condconv-b0-4e"]._replace(width=0.25, depth=0.1, padding=padding, stages=stages)
    check_exports(spread(fill(make(row, input_shape=(64, 64, 3)))), tmp_path)
