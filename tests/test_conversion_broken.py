"""Damaged files of every kind raise an error of one line, quickly, and leave the network unchanged."""

import time
import warnings

import keras
import numpy as np
import pytest
import safetensors.numpy
from support.reference import fill
from support.weight_files import save_checkpoint, write_state

from keras_efficientnet import load_weights, models
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
