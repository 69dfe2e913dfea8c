"""Networks of the family at 64 pixels and with 5 classes, whose probabilities differ clearly between images."""

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.architectures import VARIANTS
from support.reference import reference_images

IMAGES = reference_images(2, 64, 64, seed=1)
# an export of B0 takes 40 s, of B7 minutes: the default run exports small networks (test_export_onnx.py) and, in
# test_main.py, one B0; `slow` exports all networks but the largest
EXPORTED = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in VARIANTS
    if not any(size in name for size in ("b6", "b7", "b8", "l2"))
]


def make(name, **arguments):
    """Returns a network of any image size with 5 classes."""
    return ke.create_model(name, **{"classes": 5, "input_shape": (None, None, 3), **arguments})


def shrink(row):
    """Returns the row of a network with four narrow blocks, for backends that compile every layer by itself."""
    return row._replace(width=0.25, depth=0.1, stages=row.stages[:2] + row.stages[-2:])


def predict(model, images=IMAGES):
    """Returns the probabilities of each image."""
    return keras.ops.convert_to_numpy(model(images, training=False))


def spread(model):
    """Scales the classifier, so that the probabilities of an image, and of different images, differ clearly."""
    kernel, bias = model.get_layer("predictions").get_weights()
    features = keras.Model(model.input, model.get_layer("avg_pool").output)
    rows = predict(features)
    centred = (rows[0] - rows[1]) @ kernel
    kernel *= 4 / np.abs(centred).max()
    bias -= rows.mean(axis=0) @ kernel
    model.get_layer("predictions").set_weights([kernel, bias])
    assert np.abs(np.diff(predict(model), axis=0)).max() > 0.3
    return model
