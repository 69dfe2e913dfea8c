"""Small networks to export, and what the tests of exporters share."""

import json

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet import export
from keras_efficientnet.export import npm
from keras_efficientnet.layers import BatchNormalization
from support.images import random_images
from support.scripts import run

__all__ = [
    "FILES",
    "LABELS",
    "WRITERS",
    "RandomNoise",
    "content",
    "enliven",
    "load",
    "make_small",
    "run",
    "write_packages",
]

LABELS = [f"name of class {index}" for index in range(10)]
# what the web page needs of its runtime, with the names of the files as their content
FILES = {f"{package.name}/{file}": file.encode() for package in npm.RUNTIME for file in package.files}
WRITERS = {
    "saved_model": export.to_saved_model,
    "tflite": export.to_tflite,
    "onnx": export.to_onnx,
    "openvino": export.to_openvino,
}


def load(kind, path):
    """Opens a file of a format."""
    return export.FORMATS[kind].load(path)


def enliven(model):
    """Sets random weights whose outputs depend on the image: otherwise every comparison passes."""
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNormalization)]
    for layer in norms:
        layer.gamma.assign(random.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
        layer.momentum = 0.0
    model(random_images(16), training=True)  # fits the moving statistics
    for layer in norms:
        layer.momentum = 0.99
    kernel = model.get_layer("predictions").kernel
    kernel.assign(kernel * 3)
    assert np.std(model(random_images(16)), axis=0).max() > 0.05
    return model


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


class RandomNoise(keras.layers.Layer):
    """Returns different outputs at each call."""

    def call(self, inputs):
        return inputs + tf.random.normal(tf.shape(inputs))


def content(path):
    """Returns every file at a path, hidden files too, with its bytes."""
    return {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}


def write_packages(folder, version=None):
    """Writes the runtime of the web page as npm installs it, with files of no use to a browser. Returns `folder`."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for package in npm.RUNTIME:
        (folder / package.name / "package.json").write_text(json.dumps({"version": version or package.version}))
    return folder
