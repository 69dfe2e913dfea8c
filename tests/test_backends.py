"""Networks on other Keras backends give the outputs of TensorFlow."""

import numpy as np
import pytest
from support.family import shrink
from support.reference import fill, reference_images

import keras_efficientnet as ke
from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS

KINDS = ("efficientnet-b0", "efficientnet-condconv-b0-4e", "efficientnet-b1-pruned", "efficientnet-lite0")
KINDS += ("efficientnet-edgetpu-S",)
RUN = """
import os, sys
os.environ["KERAS_BACKEND"], folder, size, *names = sys.argv[1:]
sys.path.insert(0, "tests")
import keras, numpy as np
from support.reference import fill, reference_images
from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
from support.family import shrink
assert keras.backend.backend() == sys.argv[1]
keras.initializers.VarianceScaling.__call__ = keras.initializers.Zeros.__call__  # random kernels are replaced anyway
for name in names:
    row = shrink(VARIANTS[name]) if size == "small" else VARIANTS[name]
    model = fill(models.make_model(row, classes=5, input_shape=(None, None, 3)))
    np.save(f"{folder}/{name}.npy", model.predict(reference_images(2, 75, 98), verbose=0))
    model.save(f"{folder}/{name}.keras")
"""


@pytest.mark.parametrize(
    ("backend", "size", "kinds"),
    [
        pytest.param("jax", "small", [KINDS[1], KINDS[4]], id="jax_small"),
        pytest.param("jax", "full", KINDS, id="jax", marks=pytest.mark.slow),
        pytest.param("torch", "full", KINDS, id="torch", marks=pytest.mark.torch),
    ],
)
def test_other_backends_give_the_outputs_of_tensorflow(run_python, tmp_path, backend, size, kinds):
    """And a file saved by the other backend loads into TensorFlow."""
    run_python(RUN, backend, tmp_path, size, *kinds)
    images = reference_images(2, 75, 98)
    for name in kinds:
        row = shrink(VARIANTS[name]) if size == "small" else VARIANTS[name]
        model = fill(models.make_model(row, classes=5, input_shape=(None, None, 3)))
        expected = model(images, training=False)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, rtol=0, atol=1e-4, err_msg=name)
        loaded = ke.load_model(tmp_path / f"{name}.keras")(images, training=False)
        np.testing.assert_allclose(loaded, expected, rtol=0, atol=1e-6, err_msg=name)
