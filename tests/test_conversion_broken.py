"""Damaged files of every kind raise an error of one line, quickly, and leave the network unchanged."""

import re
import time
import warnings

import keras
import numpy as np
import pytest
import safetensors.numpy
from support.reference import fill
from support.weight_files import save_checkpoint, write_state

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.origins.tf1 import OFFICIAL
from keras_efficientnet.weights.registry import to_keras_applications, to_timm

WRITERS = {
    "x.weights.h5": keras.Model.save_weights,
    "x.keras": keras.Model.save,
    "x.h5": to_keras_applications,
    "x.safetensors": lambda model, path: safetensors.numpy.save_file(to_timm(model), path),
    "x.pth": lambda model, path: write_state(path, to_timm(model)),
    "model.ckpt-109474.index": lambda model, path: save_checkpoint(
        path.parent, {p.key: x for p, x in extract(model, OFFICIAL)}
    ),
}
CHECKED = {"x.keras", "x.pth", "model.ckpt-109474.index"}  # with a checksum


def cut(content, rng):
    return content[: rng.integers(len(content))]


def flip_near_the_start(content, rng):
    content[rng.integers(min(len(content), 20000))] ^= 1 << rng.integers(8)
    return content


def flip_near_the_end(content, rng):
    content[-1 - rng.integers(min(len(content), 20000))] ^= 1 << rng.integers(8)
    return content


def overwrite(content, rng):
    place = rng.integers(len(content) - 8)
    content[place : place + 8] = rng.bytes(8)
    return content


@pytest.fixture(scope="module")
def network(tiny):
    return models.make_model(tiny, classes=10)


@pytest.mark.parametrize("damage", [cut, flip_near_the_start, flip_near_the_end, overwrite])
@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_refused_or_loads_completely(network, tmp_path, name, damage):
    """Only a changed number in a file without checksums goes unnoticed."""
    WRITERS[name](fill(network), tmp_path / name)
    whole, rng, refused = (tmp_path / name).read_bytes(), np.random.default_rng(0), 0
    network.set_weights([np.zeros_like(array) for array in network.get_weights()])
    for _ in range(9):
        (tmp_path / name).write_bytes(damage(bytearray(whole), rng))
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_weights(network, tmp_path / name)
        except ValueError as error:
            refused += 1
            assert name.removesuffix(".index") in str(error) and "\n" not in str(error)
            assert not any(array.any() for array in network.get_weights())
        assert time.process_time() - start < 5
        network.set_weights([np.zeros_like(array) for array in network.get_weights()])
    assert refused == 9 or damage is not cut
    assert refused or name not in CHECKED or damage is not overwrite


def poison(network, layer, variable, values):
    """Replaces the first values of a layer's variable."""
    weights = network.get_layer(layer).get_weights()
    weights[variable].flat[: len(values)] = values
    network.get_layer(layer).set_weights(weights)


@pytest.mark.parametrize("name", WRITERS)
def test_values_that_are_not_finite_and_negative_variances_are_refused_and_counted(network, tmp_path, name):
    """NaN and infinity are not numbers to compute with; a variance is a mean of squares."""
    fill(network)
    poison(network, "top_conv", 0, [np.nan, np.nan, -np.inf])
    poison(network, "block2a_bn", 3, [-1.0, -0.5])
    WRITERS[name](network, tmp_path / name)
    network.set_weights([np.zeros_like(array) for array in network.get_weights()])
    with pytest.raises(ValueError, match=f"{name} has values that no network can") as caught:
        load_weights(network, tmp_path / name)
    kernel = r"(top_conv/kernel|conv_head.weight|head/conv2d/kernel) \(2 NaN, 1 infinite, of [0-9,]+ values\)"
    variance = r"(bn/moving_variance|bn2.running_var|normalization_1/moving_variance) \(2 negative variances, of "
    assert re.search(kernel, str(caught.value)) and re.search(variance, str(caught.value))
    assert not any(array.any() for array in network.get_weights())


def test_float64_values_that_float32_cannot_hold_are_refused(network):
    arrays = {name: array.astype("float64") for name, array in to_timm(fill(network)).items()}
    registry.convert(network, arrays)  # float64 itself is fine
    before = network.get_weights()
    arrays["bn1.bias"][:4] = [1e300, -1e300, 3.5e38, 3.4e38]  # the largest float32 is 3.4028e38
    with pytest.raises(ValueError, match=r"bn1.bias \(3 too large for float32, of 8 values\)"):
        registry.convert(network, arrays, "x.pth")
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_kernels_whose_sum_over_the_channels_is_not_finite_are_refused(tiny):
    arrays = to_timm(fill(models.make_model(tiny, classes=10)))
    arrays["conv_stem.weight"][0, :, 0, 0] = 3e38
    grayscale = models.make_model(tiny, classes=10, input_shape=(32, 32, 1))
    with pytest.raises(ValueError, match=r"conv_stem.weight \(1 infinite, of 72 values\)"):
        registry.convert(grayscale, arrays)


def test_values_of_arrays_that_are_not_loaded_do_not_matter(network, tiny):
    poison(fill(network), "predictions", 1, [np.nan])
    registry.convert(models.make_model(tiny, include_top=False), to_timm(network))
