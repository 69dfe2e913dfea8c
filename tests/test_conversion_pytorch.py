"""Weights of torchvision and of lukemelas; those of timm are in test_conversion.py."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from support.originals import (
    assert_close,
    assert_each_fills_one,
    make,
    make_images,
    read_origin,
    read_rows,
    read_state,
    slow_if_large,
)

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.origins.lukemelas import LUKEMELAS
from keras_efficientnet.weights.origins.torchvision import TORCHVISION
from keras_efficientnet.weights.pairing import pair_variables
from keras_efficientnet.weights.registry import to_timm

pytestmark = pytest.mark.usefixtures("zero_kernels")
COUNTER = "num_batches_tracked"
TRAINED_WITH_SAME_PADDING = {"b5", "b6", "b7"}  # of torchvision


@pytest.mark.parametrize("size", [slow_if_large(f"b{number}") for number in range(8)])
def test_every_array_of_torchvision_fills_one_variable(size):
    rows = read_rows("torchvision", f"keys_efficientnet_{size}")
    assert_each_fills_one(make(f"efficientnet-{size}-torch"), rows, COUNTER)
    if size in TRAINED_WITH_SAME_PADDING:
        assert_each_fills_one(make(f"efficientnet-{size}"), rows, COUNTER)


@pytest.mark.parametrize("size", [slow_if_large(f"b{number}") for number in range(9)])
def test_every_array_of_lukemelas_fills_one_variable(size):
    assert_each_fills_one(make(f"efficientnet-{size}"), read_rows("lukemelas", f"keys_efficientnet_{size}"), COUNTER)


def cases(origin):
    rows = read_origin(origin)["cases"]
    return [
        pytest.param(origin, case, id=case["case"], marks=[] if "b0" in case["model"] else [pytest.mark.slow])
        for case in rows
    ]


@pytest.mark.parametrize(("origin", "case"), cases("torchvision") + cases("lukemelas"))
def test_a_network_gives_the_outputs_of_the_original(origin, case, golden, tmp_path):
    """Loads a file, whose names reveal the origin."""
    safetensors.numpy.save_file(read_state(case["model"], origin), tmp_path / "model.safetensors")
    name = case["model"].replace("_", "-") + ("-torch" if origin == "torchvision" else "")
    model = make(name, weights=tmp_path / "model.safetensors")
    outputs = keras.ops.convert_to_numpy(model(make_images(case), training=False))
    assert_close(outputs[:, ::32], golden(f"{origin}/logits.npz")[f"{case['case']}/logits"], case)


def arrays_of(model, origin):
    return {pair.key: array for pair, array in extract(model, origin)}


@pytest.fixture
def network(tiny):
    return models.make_model(tiny, classes=10, name="same")


@pytest.fixture
def symmetric(tiny):
    return models.make_model(tiny._replace(padding="symmetric", epsilon=1e-5), classes=10, name="symmetric")


def test_torchvision_weights_load_into_same_padding_only_on_request(network, symmetric):
    arrays = arrays_of(symmetric, TORCHVISION)
    before = network.get_weights()
    for pair in pair_variables(symmetric, TORCHVISION):
        arrays[pair.key] = arrays[pair.key] + 1
    with pytest.raises(
        ValueError, match=r"trained with symmetric padding and an epsilon of 1e-05; same has same.*-torc"
    ):
        registry.convert(network, arrays)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.warns(UserWarning, match="symmetric padding and an epsilon of 1e-05; same has same padding and 0.001"):
        registry.convert(network, arrays, origin="torchvision")
    assert (network.get_layer("top_bn").get_weights()[1] == arrays["features.8.1.bias"]).all()


def test_same_padding_weights_load_into_symmetric_padding_only_on_request(network, symmetric):
    arrays = arrays_of(network, LUKEMELAS)
    with pytest.raises(ValueError, match="Build the network without -torch, or load them all the same with origin='l"):
        registry.convert(symmetric, arrays)
    with pytest.warns(UserWarning, match="its results are not the published ones"):
        registry.convert(symmetric, arrays, origin="lukemelas")


def test_another_epsilon_alone_gives_a_warning(tiny):
    arrays = arrays_of(models.make_model(tiny, classes=10), LUKEMELAS)
    other = models.make_model(tiny._replace(epsilon=1e-2), classes=10)
    with pytest.warns(UserWarning, match="an epsilon of 0.001; efficientnet has same padding and 0.01"):
        registry.convert(other, arrays)


def test_an_unknown_origin_raises_an_error_that_lists_the_known_ones(network, tmp_path):
    network.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(
        ValueError, match="Unknown origin 'pytorch'. Choose one of: timm, torchvision, lukemelas, tf1, "
    ):
        load_weights(network, tmp_path / "x.weights.h5", origin="pytorch")


def test_an_origin_that_does_not_match_the_names_is_refused(network):
    with pytest.raises(ValueError, match=r"Missing: \['_blocks.0._bn1.bias'.*Unused: \['blocks.0.0.bn1.bias'"):
        registry.convert(network, to_timm(network), origin="lukemelas")


@pytest.mark.parametrize("name", ["efficientnet-edgetpu-S", "efficientnet-condconv-b0-4e"])
def test_torchvision_has_no_other_networks(name):
    arrays = {"features.0.0.weight": np.zeros((32, 3, 3, 3), "float32")}
    with pytest.raises(ValueError, match="which is not part of an EfficientNet of torchvision"):
        registry.convert(make(name), arrays)
