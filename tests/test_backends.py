"""The networks on Keras's other backends give TensorFlow's numbers."""

import numpy as np
import pytest
from support.reference import fill, reference_images

import keras_efficientnet as ke
from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS

KINDS = ("efficientnet-b0", "efficientnet-condconv-b0-4e", "efficientnet-b1-pruned", "efficientnet-lite0")
KINDS += ("efficientnet-edgetpu-S",)
SMALL = {"width": 0.25, "depth": 0.1}  # JAX takes half a minute to draw the weights of a whole network
RUN = """
import os, sys
os.environ["KERAS_BACKEND"], folder, changes, *names = sys.argv[1:]
sys.path.insert(0, "tests")
import keras, numpy as np
from support.reference import fill, reference_images
from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
assert keras.backend.backend() == sys.argv[1]
for name in names:
    row = VARIANTS[name]._replace(**eval(changes))
    model = fill(models.make_model(row, classes=5, input_shape=(None, None, 3)))
    np.save(f"{folder}/{name}.npy", model.predict(reference_images(2, 75, 98), verbose=0))
    model.save(f"{folder}/{name}.keras")
"""


@pytest.mark.parametrize(
    ("backend", "changes", "kinds"),
    [
        pytest.param("jax", SMALL, [KINDS[1], KINDS[4]], id="jax_small"),
        pytest.param("jax", {}, KINDS, id="jax", marks=pytest.mark.slow),
        pytest.param("torch", {}, KINDS, id="torch", marks=pytest.mark.torch),
    ],
)
def test_each_kind_gives_tensorflows_numbers(run_python, tmp_path, backend, changes, kinds):
    """And a file that it saved is loaded here."""
    run_python(RUN, backend, tmp_path, repr(changes), *kinds)
    images = reference_images(2, 75, 98)
    for name in kinds:
        row = VARIANTS[name]._replace(**changes)
        model = fill(models.make_model(row, classes=5, input_shape=(None, None, 3)))
        expected = model(images, training=False)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, rtol=0, atol=1e-4, err_msg=name)
        loaded = ke.load_model(tmp_path / f"{name}.keras")(images, training=False)
        np.testing.assert_allclose(loaded, expected, rtol=0, atol=1e-6, err_msg=name)
