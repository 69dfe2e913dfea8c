"""The public names of `keras_efficientnet`, and saved models in a fresh process."""

import importlib

import keras
import numpy as np
import pytest
from support.reference import fill, reference_images

import keras_efficientnet
from keras_efficientnet import models

IMAGES = reference_images(2, 32, 32, seed=1)

FRESH = """
import sys, time
import numpy as np
import keras
start = time.process_time()
import keras_efficientnet
print(time.process_time() - start)
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))
ke = keras_efficientnet
print(ke.export.to_onnx.__name__, ke.training.run.__name__)
"""


@pytest.mark.parametrize("name", keras_efficientnet.__all__)
def test_every_public_name_loads_and_is_in_dir(name):
    home = importlib.import_module(f"keras_efficientnet.{keras_efficientnet._HOME[name]}")
    assert getattr(keras_efficientnet, name) is getattr(home, name)
    assert name in dir(keras_efficientnet)


def test_every_builder_is_public():
    assert {build.__name__ for build in models.BUILDERS.values()} < set(keras_efficientnet.__all__)


def test_an_unknown_attribute_raises_attribute_error():
    with pytest.raises(AttributeError, match="module 'keras_efficientnet' has no attribute 'EfficientNetB9'"):
        keras_efficientnet.EfficientNetB9  # noqa: B018
    assert not hasattr(keras_efficientnet, "Sequential")


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """The file of a network with reference weights, and its outputs for IMAGES."""
    model = fill(models.make_model(tiny, classes=10))
    path = tmp_path_factory.mktemp("saved") / "tiny.keras"
    model.save(path)
    return path, model(IMAGES, training=False).numpy()


def test_a_saved_model_loads_without_custom_objects(saved):
    path, expected = saved
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded(IMAGES, training=False), expected, rtol=0, atol=1e-6)
    assert {layer.name for layer in loaded.layers if layer.name.endswith("_drop")}


def test_a_saved_model_can_be_trained_after_loading(saved):
    loaded = keras.saving.load_model(saved[0])
    norm = loaded.get_layer("top_bn")
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    loaded(IMAGES, training=True)
    assert (norm.moving_mean.numpy() != mean).any() and (norm.moving_variance.numpy() != variance).any()


@pytest.fixture(scope="module")
def fresh(saved, run_python):
    """A fresh process after `import keras, keras_efficientnet`: seconds of the second import, outputs, module names."""
    folder = saved[0].parent
    np.save(folder / "images.npy", IMAGES)
    seconds, *names = run_python(FRESH, saved[0], folder / "images.npy", folder / "scores.npy").split()
    return float(seconds), np.load(folder / "scores.npy"), names


def test_a_fresh_process_needs_only_two_imports_to_load_a_saved_model(saved, fresh):
    np.testing.assert_allclose(fresh[1], saved[1], rtol=0, atol=1e-6)


def test_importing_the_package_after_keras_takes_no_time(fresh):
    assert fresh[0] < 0.3


def test_public_modules_load_on_first_use(fresh):
    assert fresh[2] == ["to_onnx", "run"]
