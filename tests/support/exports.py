"""Models to export, and the scripts of `export/` run as a user runs them."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from conftest import ROOT

from keras_efficientnet.layers import BatchNormalization
from support.images import random_images

LABELS = [f"name of class {index}" for index in range(10)]
NOISE = re.compile(
    r"WARNING: All log messages before absl|[IWE]0000 |INFO: Created TensorFlow Lite"
)  # TensorFlow's C++


def make_small(activation="softmax", shape=(32, 32, 3), layer=None, classes=10, name="small"):
    """Returns a classifier that is exported in a second."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 64, offset=-2)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = keras.layers.Activation("swish")(BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = layer(x) if layer else x
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation, name="predictions")(x), name=name)


def enliven(model):
    """Sets random weights whose outputs depend on the image: otherwise every comparison would pass."""
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNormalization)]
    for layer in norms:
        layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
        layer.momentum = 0.0
    model(random_images(16), training=True)  # sets the moving statistics
    for layer in norms:
        layer.momentum = 0.99
    kernel = model.get_layer("predictions").kernel
    kernel.assign(kernel * 3)
    assert np.std(model(random_images(16)), axis=0).max() > 0.05
    return model


class Dice(keras.layers.Layer):
    """Returns something else at each call."""

    def call(self, inputs):
        return inputs + tf.random.normal(tf.shape(inputs))


def run(*arguments, cwd):
    """Runs a script as a user does; returns its exit code, lines on stdout, and lines on stderr but TensorFlow's."""
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if not NOISE.match(line)]
    return done.returncode, done.stdout.splitlines(), errors


def content(path):
    """Returns every file at a path, hidden files too, with its bytes."""
    return {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}
