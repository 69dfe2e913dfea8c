"""Small trained classifiers, for tests of quantization.

A network of random weights magnifies every rounding error, so that no 8-bit file agrees with it.
"""

import functools

import keras
import numpy as np

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model

CLASSES = 10
NETWORKS = {
    "b0": "efficientnet-b0",
    "condconv": "efficientnet-condconv-b0-4e",
    "lite": "efficientnet-lite0",
    "edgetpu": "efficientnet-edgetpu-S",
}


def draw_images(count, seed=1):
    """Returns noisy images of ten patterns in turn, whole numbers in float32 [count, 32, 32, 3], and their classes."""
    patterns = np.random.default_rng(1).uniform(0, 255, (CLASSES, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    random = np.random.default_rng(seed)
    classes = np.arange(count) % CLASSES
    contrasts = random.uniform(0.7, 1, (count, 1, 1, 1))
    images = patterns[classes] * contrasts + random.normal(0, 10, (count, 32, 32, 3))
    return np.rint(images.clip(0, 255)).astype("float32"), classes


@functools.cache
def train_small(kind, steps=60):
    """Returns a network of a kind in `NETWORKS`, of three narrow blocks, trained to classify the patterns."""
    keras.utils.set_random_seed(1)
    variant = VARIANTS[NETWORKS[kind]]
    stages = (variant.stages[0], variant.stages[-2]._replace(repeats=2))
    variant = variant._replace(width=0.25, depth=1.0, resolution=32, stages=stages)
    model = make_model(variant, classes=CLASSES, drop_path_rate=0.0, dropout_rate=0.0)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.8
    images, classes = draw_images(32 * 10)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, classes, batch_size=32, epochs=steps // 10, verbose=0)
    predicted = np.asarray(model(draw_images(50, seed=2)[0])).argmax(axis=1)
    assert (predicted == draw_images(50)[1]).mean() > 0.9
    return model
