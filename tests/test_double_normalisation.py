"""A network that normalises pixels warns once about images that were normalised before; never about pixels."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_efficientnet
from keras_efficientnet import models

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
NORMALISED = {  # the habits of Keras, timm and the original MobileNets
    "divided by 255": PIXELS / 255,
    "ImageNet": (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "-1 to 1": PIXELS / 127.5 - 1,
    "ours": keras_efficientnet.preprocess_input(PIXELS),
    "float16": (PIXELS / 255).astype("float16"),
}
CALLS = {
    "eager": lambda model, images: model(images, training=False),
    "training": lambda model, images: model(images, training=True),
    "predict": lambda model, images: model.predict(images, verbose=0),
    "predict of a tensor": lambda model, images: model.predict(tf.constant(images), batch_size=1, verbose=0),
    "in a model": lambda model, images: keras.Sequential([model, keras.layers.Dense(2)])(images),
    "saved": lambda model, images: keras.Model.from_config(model.get_config())(images),
}
WARNING = "normalises pixels from 0 to 255 itself: its results will be wrong. Remove your own normalisation"


@pytest.fixture(scope="module")
def row(tiny):
    return tiny._replace(depth=0.1)


@pytest.fixture
def model(row):
    return models.make_model(row, classes=2)


@pytest.mark.parametrize("images", NORMALISED.values(), ids=NORMALISED)
def test_every_usual_normalisation_warns(model, images):
    with pytest.warns(UserWarning, match=WARNING):
        model.predict(images, verbose=0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_way_to_call_warns_once_and_pixels_never(model, call):
    for images in (PIXELS, PIXELS.astype("uint8"), np.zeros_like(PIXELS), np.full_like(PIXELS, 2)):
        call(model, images)  # a warning would be an error
    with pytest.warns(UserWarning, match=WARNING):
        call(model, PIXELS / 255)
    if call is not CALLS["saved"]:
        call(model, PIXELS / 255)


def test_a_network_without_its_normalisation_does_not_warn(row):
    model = models.make_model(row, classes=2, include_preprocessing=False)
    model(PIXELS / 255)
    model.predict(PIXELS / 255, verbose=0)


def test_a_graph_has_the_operations_of_rescaling_alone(model):
    def operations(layer):
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 32, 32, 3))).graph
        return [operation.type for operation in graph.get_operations()]

    layer = model.get_layer("normalization")
    assert operations(layer) == operations(keras.layers.Rescaling(layer.scale, layer.offset))


def test_a_warning_raised_as_an_error_is_raised_once(model):
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="values from 0.0.* to 1"):
        warnings.simplefilter("error")
        model(PIXELS / 255)
    model(PIXELS / 255)
