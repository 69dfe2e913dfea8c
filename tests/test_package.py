"""The shop window, `keras_efficientnet/__init__.py`, and models that leave and enter a process."""

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
"""


@pytest.mark.parametrize("name", keras_efficientnet.__all__)
def test_every_public_name_is_there_and_listed(name):
    home = importlib.import_module(f"keras_efficientnet.{keras_efficientnet._HOME[name]}")
    assert getattr(keras_efficientnet, name) is getattr(home, name)
    assert name in dir(keras_efficientnet)


def test_modules_that_the_readme_names_need_no_import_of_their_own(run_python):
    code = "import keras_efficientnet as ke; print(ke.conversion.to_timm.__name__, ke.pretrained.find.__name__)"
    assert run_python(code).split() == ["to_timm", "find"]


def test_every_builder_is_public():
    assert {build.__name__ for build in models.BUILDERS.values()} < set(keras_efficientnet.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'keras_efficientnet' has no attribute 'EfficientNetB9'"):
        keras_efficientnet.EfficientNetB9  # noqa: B018
    assert not hasattr(keras_efficientnet, "Sequential")


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """The file of a network with reference weights, and what the network says to IMAGES."""
    model = fill(models.make_model(tiny, classes=10))
    path = tmp_path_factory.mktemp("saved") / "tiny.keras"
    model.save(path)
    return path, model(IMAGES, training=False).numpy()


def test_a_saved_model_loads_without_custom_objects(saved):
    path, expected = saved
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(loaded(IMAGES, training=False), expected, rtol=0, atol=1e-6)
    assert {layer.name for layer in loaded.layers if layer.name.endswith("_drop")}


def test_a_saved_model_goes_on_training_after_loading(saved):
    loaded = keras.saving.load_model(saved[0])
    norm = loaded.get_layer("top_bn")
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    loaded(IMAGES, training=True)
    assert (norm.moving_mean.numpy() != mean).any() and (norm.moving_variance.numpy() != variance).any()


@pytest.fixture(scope="module")
def fresh(saved, run_python):
    """What a fresh process does after `import keras, keras_efficientnet`: seconds of the latter, scores of IMAGES."""
    folder = saved[0].parent
    np.save(folder / "images.npy", IMAGES)
    seconds = run_python(FRESH, saved[0], folder / "images.npy", folder / "scores.npy")
    return float(seconds), np.load(folder / "scores.npy")


def test_a_fresh_process_loads_a_saved_model_by_the_two_imports_alone(saved, fresh):
    np.testing.assert_allclose(fresh[1], saved[1], rtol=0, atol=1e-6)


def test_importing_it_beside_keras_takes_no_time(fresh):
    assert fresh[0] < 0.3
