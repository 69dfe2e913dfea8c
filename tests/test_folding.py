"""Folded batch norms: the outputs are those of the model that still has them."""

import keras
import numpy as np
import pytest
from keras import layers
from support.images import random_images
from support.reference import fill

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.export import fold_batch_norms
from keras_efficientnet.export.folding import inference_copy

KINDS = (
    "efficientnet-b0",
    "efficientnet-condconv-b0-4e",
    "efficientnet-b1-pruned",
    "efficientnet-lite0",
    "efficientnet-edgetpu-S",
)


def norms(model):
    return [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def unsettle(model):
    """Weights and statistics of every kind of norm far from those it begins with; the model."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2.0, weight.shape) for weight in layer.get_weights()])
    return model


def assert_same(model, result, images, tolerance=1e-5):
    expected = np.asarray(model(images, training=False))
    assert np.ptp(expected) > 1e-3  # the images tell something
    np.testing.assert_allclose(
        result(images, training=False), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_network_without_its_batch_norms_gives_the_same_logits(name):
    model = models.make_model(VARIANTS[name]._replace(resolution=64), classes=10, classifier_activation=None)
    fill(model)
    before = [weight.copy() for weight in model.get_weights()]
    result = fold_batch_norms(model)
    assert_same(model, result, random_images(2, height=64, width=64))
    assert norms(model) and not norms(result)
    assert [layer.name for layer in result.layers] == [
        layer.name for layer in model.layers if layer.name not in norms(model)
    ]
    assert result.name == model.name
    for now, then in zip(model.get_weights(), before, strict=True):  # the model stays as it is
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize(
    ("convolution", "norm"),
    [
        (layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization()),
        (
            layers.Conv2D(5, 3, strides=2, padding="same", bias_initializer="ones"),
            layers.BatchNormalization(scale=False),
        ),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), layers.BatchNormalization(center=False, epsilon=0.1)),
    ],
    ids=["conv", "bias_no_scale", "depthwise_no_center"],
)
@pytest.mark.parametrize("kind", ["functional", "sequential", "inside"])
def test_other_kinds_of_models_are_folded(convolution, norm, kind):
    both = [type(each).from_config(each.get_config()) for each in (convolution, norm)]
    model = unsettle(keras.Sequential([keras.Input((8, 8, 3)), *both, layers.ReLU(), layers.GlobalMaxPooling2D()]))
    if kind == "functional":
        model = keras.Model(model.inputs[0], model.outputs[0])
    if kind == "inside":
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, layers.Dense(3)(model(image)))
    model.compile("sgd", "mse")
    result = fold_batch_norms(model)
    assert_same(model, result, np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32"))
    inner = result.layers[1] if kind == "inside" else result
    assert not norms(inner)


def test_a_convolution_with_other_consumers_is_not_folded():
    image = keras.Input((8, 8, 3))
    twice = layers.Conv2D(4, 3, name="twice")(image)
    shared = layers.BatchNormalization(name="shared")
    seen = layers.Conv2D(4, 3, name="seen")(image)
    bent = layers.Conv2D(4, 3, activation="relu", name="bent")(image)
    rest = [layers.BatchNormalization(name="of_twice")(twice), twice, shared(layers.Conv2D(4, 3)(image))]
    rest += [shared(layers.Conv2D(4, 3)(image)), layers.BatchNormalization(name="of_seen")(seen)]
    rest += [layers.BatchNormalization(name="of_bent")(bent)]
    model = unsettle(keras.Model(image, [layers.Add()(rest), seen]))
    result = fold_batch_norms(model)
    assert sorted(norms(result)) == ["of_bent", "of_seen", "of_twice", "shared"]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    for found, expected in zip(result(images), model(images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def make_behind(layer, *after):
    """A convolution and its norm, behind a layer, with a top."""
    rest = [layers.Conv2D(4, 3), layers.BatchNormalization(), *after]
    return unsettle(keras.Sequential([keras.Input((8, 8, 3)), layer, *rest, layers.GlobalAveragePooling2D()]))


def test_a_layer_with_state_besides_weights_keeps_it():
    images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
    adapted = layers.Normalization()
    adapted.adapt(images)
    model = make_behind(adapted)
    assert_same(model, fold_batch_norms(model), images[:2])


class Unsaveable(layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor


class Inner(keras.Model):
    def call(self, inputs):
        return inputs + 1.0

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("make", [lambda: Unsaveable(2.0), lambda: layers.Lambda(lambda x: x / 3), Inner])
def test_a_layer_that_cannot_be_copied_is_shared(make):
    model = make_behind(make())
    result = fold_batch_norms(model)
    assert not norms(result)
    assert_same(model, result, np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32"))


class Doubled(layers.BatchNormalization):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def test_a_subclass_of_a_batch_norm_is_not_folded():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), Doubled(), layers.GlobalMaxPooling2D()])
    result = fold_batch_norms(unsettle(model))
    assert len(norms(result)) == 1
    assert_same(model, result, np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32"))


def test_exporting_leaves_no_trace_in_the_model():
    model = make_behind(layers.ReLU())
    before = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in [model, *model.layers]]
    with inference_copy(model) as copy:
        assert not norms(copy)
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in [model, *model.layers]] == before


def test_a_folded_network_can_be_saved(tmp_path):
    variant = VARIANTS["efficientnet-condconv-b0-4e"]._replace(width=0.25, depth=0.25, resolution=32)
    model = models.make_model(variant, classes=10, classifier_activation=None)
    fill(model)
    result = fold_batch_norms(model)
    result.save(tmp_path / "folded.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "folded.keras"), random_images(2))


def test_a_model_without_inputs_is_refused():
    with pytest.raises(ValueError, match="has no inputs yet"):
        fold_batch_norms(keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()]))
