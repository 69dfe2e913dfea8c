"""Checkpoints of the official code, written by TensorFlow's own saver: raw and averaged, with slots and counters."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from support.originals import assert_close, assert_filled, make, make_images, read_origin, read_rows
from support.reference import reference_array
from support.weight_files import save_checkpoint

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.origins.tf1 import OFFICIAL
from keras_efficientnet.weights.pairing import pair_variables

TF1 = read_origin("tf1")
NAMES = list(dict.fromkeys(case["model"] for case in TF1["cases"]))
QUICK = ["efficientnet-b0", "efficientnet-condconv-b0-4e", "efficientnet-edgetpu-S"]
WITH_SLOTS = {*QUICK, "efficientnet-lite0"}


def parameters(quick):
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in NAMES]


pytestmark = pytest.mark.usefixtures("zero_kernels")
AVERAGED, SLOTS = "/ExponentialMovingAverage", ("/RMSProp", "/RMSProp_1")


def make_arrays(name, *, slots=False):
    """Returns the arrays of a training checkpoint, with the averaged variables."""
    experts = TF1["experts"].get(name, {})
    arrays = {}
    for key, shape in read_rows("tf1", f"keys_{name}"):
        if key == "global_step":
            arrays[key] = np.array(109474, "int64")
        elif slots or not key.endswith(SLOTS):
            full = experts.get(key.removesuffix(AVERAGED), shape)
            zeros = key.endswith(SLOTS)
            arrays[key] = np.zeros(shape, "float32") if zeros else reference_array(key, full).reshape(shape)
    return arrays


def shuffle_counters(arrays):
    """Renumbers conditional convolutions across blocks, in order within each block, as earlier versions of the code."""
    blocks = sorted({int(found[1]) for key in arrays if (found := re.search(r"blocks_(\d+)/cond_conv2d", key))})
    others = dict(zip(blocks, blocks[::-1], strict=True))

    def rename(key):
        found = re.fullmatch(r"(.*/blocks_(\d+)/(?:depthwise_)?cond_conv2d)(?:_(\d+))?(/.*)", key)
        if not found:
            return key
        number = int(found[3] or 0) - 3 * blocks.index(int(found[2]))  # 1 and 2 in each block, or 0
        return f"{found[1]}_{20 * others[int(found[2])] + 9 * max(0, number)}{found[4]}".replace("model/", "")

    return {rename(key): array for key, array in arrays.items()}


@pytest.mark.parametrize("name", parameters(QUICK))
def test_a_network_gives_the_outputs_of_the_official_code(name, golden, tmp_path):
    """Averaged weights by default, from the checkpoint's folder; trained weights with average=False, by its prefix."""
    arrays = make_arrays(name, slots=name in WITH_SLOTS)
    path = save_checkpoint(tmp_path, shuffle_counters(arrays) if name == "efficientnet-condconv-b0-4e" else arrays)
    model = make(name, classes=1001 if "edgetpu" in name else 1000)
    logits = golden("tf1/logits.npz")
    for weights, source in (("ema", tmp_path), ("raw", path)):
        load_weights(model, source, average=weights == "ema")
        for case in (case for case in TF1["cases"] if (case["model"], case["weights"]) == (name, weights)):
            outputs = keras.ops.convert_to_numpy(model(make_images(case), training=False))
            assert_close(outputs[:, ::32], logits[f"{case['case']}/logits"], case)


@pytest.mark.parametrize("name", parameters(WITH_SLOTS))
def test_every_variable_fills_one_of_ours(name):
    rows = [(key, shape) for key, shape in read_rows("tf1", f"keys_{name}") if not key.endswith(AVERAGED)]
    numbers = {key: number for number, (key, _) in enumerate(rows, 1)}
    model = make(name, classes=1001 if "edgetpu" in name else 1000)
    registry.convert(model, {key: np.broadcast_to(np.float32(numbers[key]), shape) for key, shape in rows})
    assert_filled(model, {numbers[key] for key in numbers if not key.endswith((*SLOTS, "global_step"))})


def test_a_model_for_1000_classes_drops_the_background_of_edgetpu(golden, tmp_path):
    """EdgeTPU files are for 1001 classes; the first is "background"."""
    path = save_checkpoint(tmp_path, make_arrays("efficientnet-edgetpu-S"))
    model = make("efficientnet-edgetpu-S")
    with pytest.warns(UserWarning, match="is for 1001 classes, the background first: .* uses the other 1000"):
        load_weights(model, path)
    case = next(case for case in TF1["cases"] if case["case"] == "efficientnet-edgetpu-S/193x225_n2_ema")
    outputs = keras.ops.convert_to_numpy(model(make_images(case), training=False))
    assert_close(outputs[:, 31::32], golden("tf1/logits.npz")[f"{case['case']}/logits"][:, 1:], case)


@pytest.fixture(scope="module")
def tiny_arrays(tiny):
    model = models.make_model(tiny, classes=10)
    rng = np.random.default_rng(0)
    pairs = pair_variables(model, OFFICIAL)
    return {f"efficientnet-b0/{pair.key}": rng.uniform(0.5, 1.5, pair.shape).astype("float32") for pair in pairs}


@pytest.fixture(scope="module")
def saved(tiny_arrays, tmp_path_factory):
    """Path of a checkpoint of the tiny network."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), tiny_arrays)


def test_trained_weights_are_used_where_there_are_no_averages(tiny, tiny_arrays, saved):
    model = models.make_model(tiny, classes=10, weights=saved)
    kernel = model.get_layer("predictions").get_weights()[0]
    np.testing.assert_array_equal(kernel, tiny_arrays["efficientnet-b0/head/dense/kernel"])


@pytest.mark.parametrize("end", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_a_checkpoint_is_found_by_any_of_its_files(tiny, tiny_arrays, saved, end):
    model = models.make_model(tiny, classes=10, weights=saved + end)
    kernel = model.get_layer("predictions").get_weights()[0]
    np.testing.assert_array_equal(kernel, tiny_arrays["efficientnet-b0/head/dense/kernel"])


def test_a_checkpoint_with_two_networks_is_refused(tiny, tiny_arrays):
    double = {key.replace("b0", "b1"): array for key, array in tiny_arrays.items()}
    with pytest.raises(ValueError, match="The file holds several networks: .* and .*. Save one"):
        registry.convert(models.make_model(tiny, classes=10), tiny_arrays | double)


def test_a_variable_without_its_average_is_missing(tiny, tiny_arrays, tmp_path):
    averaged = {f"{key}{AVERAGED}": array for key, array in tiny_arrays.items() if "head/dense" not in key}
    path = save_checkpoint(tmp_path, tiny_arrays | averaged)
    with pytest.raises(ValueError, match=r"Missing: \['head/dense/bias', 'head/dense/kernel'\]"):
        models.make_model(tiny, classes=10, weights=path)
    models.make_model(tiny, include_top=False, weights=path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "index"])
def test_a_damaged_checkpoint_raises_a_clear_error(tiny, saved, tmp_path, damage):
    path = tmp_path / Path(saved).name
    shutil.copytree(Path(saved).parent, tmp_path, dirs_exist_ok=True)
    model = models.make_model(tiny, classes=10)
    before = model.get_weights()
    data = next(tmp_path.glob("*.data-*"))
    content = bytearray(data.read_bytes())
    if damage == "cut":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "gone":
        data.unlink()
    else:
        (tmp_path / "model.ckpt-109474.index").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="model.ckpt-109474 is not a complete TensorFlow checkpoint: ") as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
