"""The public names of `keras_efficientnet`, and saved models in a fresh process."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from support.reference import fill, reference_images

import keras_efficientnet
from keras_efficientnet import models

IMAGES = reference_images(2, 32, 32, seed=1)

FRESH = """
import sys, time
import numpy as np
if sys.argv[4] == "keras first":
    import keras
start = time.process_time()
import keras_efficientnet
from keras_efficientnet import architectures
print(time.process_time() - start)
print("keras" in sys.modules)
import importlib.util
importlib.util.find_spec("keras")  # some programs only ask whether Keras is there
import keras
model = keras.saving.load_model(sys.argv[1])
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))
ke = keras_efficientnet
print(ke.export.to_onnx.__name__, ke.training.run.__name__)
print([type(finder).__name__ for finder in sys.meta_path], keras.__spec__.loader.exec_module.__qualname__)
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


KERAS_ALONE = """
import sys
import keras
try:
    keras.saving.load_model(sys.argv[1])
except TypeError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_error_of_a_process_without_the_package_is_in_the_documentation(saved, tmp_path):
    command = [sys.executable, "-c", KERAS_ALONE, str(saved[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    sentence = "Could not locate class 'PixelNormalization'."  # the first layer of ours in the network
    assert sentence in done.stdout
    assert sentence in (ROOT / "docs/models.md").read_text("utf-8")


@pytest.fixture(scope="module", params=["package first", pytest.param("keras first", marks=pytest.mark.slow)])
def fresh(request, saved, run_python):
    """What a fresh process prints, line by line, and its outputs."""
    folder = saved[0].parent
    np.save(folder / "images.npy", IMAGES)
    lines = run_python(FRESH, saved[0], folder / "images.npy", folder / "scores.npy", request.param).splitlines()
    return lines, np.load(folder / "scores.npy"), request.param


def test_a_fresh_process_needs_only_two_imports_to_load_a_saved_model(saved, fresh):
    """Whichever comes first."""
    np.testing.assert_allclose(fresh[1], saved[1], rtol=0, atol=1e-6)


def test_importing_the_package_takes_no_time_and_does_not_import_keras(fresh):
    lines, _, order = fresh
    assert float(lines[0]) < 0.3
    assert lines[1] == str(order == "keras first")


def test_public_modules_load_on_first_use(fresh):
    assert fresh[0][2] == "to_onnx run"


def test_the_import_hook_leaves_nothing_behind(fresh):
    assert "_KerasFinder" not in fresh[0][3] and "_watch" not in fresh[0][3]
