"""Networks with converted weights give timm's outputs; and what the engine refuses and adapts."""

import json
import math
import resource
import time
import warnings

import keras
import numpy as np
import pytest
from support.originals import assert_close, make, make_images, read_origin, read_rows, read_state
from support.reference import reference_images

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS, official_name
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.registry import to_timm

QUICK = {"tf_efficientnet_b0", "tf_efficientnet_cc_b0_4e", "efficientnet_b1_pruned", "tf_efficientnet_lite0"}
QUICK |= {"tf_efficientnet_es"}


TIMM = read_origin("timm")
TIMM_MODELS = list(dict.fromkeys(case["model"] for case in TIMM["cases"]))


def with_stages(model):
    """Returns the model with the outputs whose statistics were recorded: stem, last block of each stage, head."""
    ends = {"stem": "stem_activation", "head": "top_activation"}
    for layer in model.layers:
        if layer.name.startswith("block") and layer.name.endswith(("_project_bn", "_add")):
            ends[layer.name[:6]] = layer.name
    places = ["stem", *sorted(key for key in ends if key.startswith("block")), "head"]
    return keras.Model(model.input, [model.output, *(model.get_layer(ends[place]).output for place in places)])


def test_every_network_of_timm_has_a_row_and_recorded_outputs():
    assert {official_name(name) for name in TIMM_MODELS} == {name for name in VARIANTS if not name.endswith("-torch")}
    assert len(TIMM["cases"]) == 42


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in TIMM_MODELS]
)
def test_a_network_gives_the_outputs_of_timm(name, golden):
    """Compares logits and features at every recorded size; and every array after conversion back to timm."""
    state, logits = read_state(name), golden("timm/logits.npz")
    model = make(name)
    registry.convert(model, state, origin="timm")
    back = to_timm(model)
    assert {key: (array.shape, array.dtype.name) for key, array in back.items()} == {
        key: (array.shape, array.dtype.name) for key, array in state.items()
    }
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    staged = with_stages(model)
    for case in (case for case in TIMM["cases"] if case["model"] == name):
        outputs, *maps = (keras.ops.convert_to_numpy(x) for x in staged(make_images(case), training=False))
        assert_close(outputs[:, ::32], logits[f"{case['case']}/logits"], case)
        stats = [np.stack([f(x, axis=(1, 2, 3)) for f in (np.mean, np.std, np.max)], axis=-1) for x in maps]
        expected = logits[f"{case['case']}/stats"]
        np.testing.assert_allclose(stats, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max() / 10)


@pytest.fixture(scope="module")
def model(tiny):
    keras.utils.set_random_seed(1)
    return models.make_model(tiny, classes=10, name="tiny")


@pytest.fixture
def arrays(model):
    """Random arrays for the tiny network, with timm's names."""
    rng = np.random.default_rng(0)
    return {key: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype) for key, x in to_timm(model).items()}


def assert_refused(model, arrays, message):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        registry.convert(model, arrays, "b0.pth", origin="timm")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_missing_and_unused_arrays_are_listed_and_nothing_is_loaded(model, arrays):
    arrays["conv_extra.weight"] = arrays.pop("blocks.1.0.conv_pwl.weight")
    assert_refused(
        model,
        arrays,
        r"b0.pth does not match tiny. Missing: \['blocks.1.0.conv_pwl.weight'\]. Unused: \['conv_extra.weight'\]",
    )


@pytest.mark.parametrize("key", ["conv_stem.weight", "blocks.1.0.se.conv_reduce.bias", "blocks.1.1.bn3.running_var"])
def test_an_array_of_another_shape_is_named_and_nothing_is_loaded(model, arrays, key):
    shape = list(arrays[key].shape)
    arrays[key] = np.zeros([shape[0] + 1, *shape[1:]], "float32")
    assert_refused(model, arrays, f"b0.pth does not match tiny: {key} is .* the file has")


def test_integer_weights_are_refused(model, arrays):
    arrays["bn1.weight"] = arrays["bn1.weight"].astype("int64")
    assert_refused(model, arrays, "bn1.weight has numbers of type int64")


def test_the_arrays_of_another_variant_are_refused(model):
    assert_refused(model, read_state("tf_efficientnet_b1"), r"Unused: \[.* and \d+ more\]. Check that the file is")


def test_a_model_that_is_not_an_efficientnet_is_refused(arrays):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")], name="other")
    assert_refused(other, arrays, "other has no layer of an EfficientNet of this package")


def test_kernel_and_bias_of_a_classifier_must_agree(model, arrays):
    arrays["classifier.bias"] = np.zeros(7, "float32")
    assert_refused(model, arrays, r"classifier.bias is \[10\], the file has \[7\]")


def test_layers_before_the_network_are_left_unchanged(tiny, arrays):
    image = keras.Input((32, 32, 3))
    colour = keras.layers.Conv2D(3, 1, name="colour")(image)
    network = models.make_model(tiny, classes=10, input_tensor=colour)
    before = network.get_layer("colour").get_weights()
    registry.convert(network, arrays, origin="timm")
    np.testing.assert_array_equal(network.get_layer("colour").get_weights()[0], before[0])
    np.testing.assert_array_equal(network.get_layer("top_bn").get_weights()[1], arrays["bn2.bias"])


def test_a_network_without_its_head_is_filled(tiny_b0):
    model = models.make_model(tiny_b0, classes=10)
    features = models.features(models.make_model(tiny_b0, classes=10))
    registry.convert(features, to_timm(model), origin="timm")
    for layer in features.layers:
        for new, old in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)


def test_the_error_names_a_network_inside_another_model(model, arrays):
    outer = keras.Sequential([model], name="outer")
    with pytest.raises(ValueError, match=r"outer has no layer .* Pass outer.get_layer\('tiny'\)"):
        registry.convert(outer, arrays, origin="timm")


def test_half_precision_weights_load(model, arrays):
    registry.convert(model, {key: x.astype("float16") for key, x in arrays.items()}, origin="timm")
    np.testing.assert_array_equal(model.get_layer("stem_bn").get_weights()[0], arrays["bn1.weight"].astype("float16"))


def test_a_network_without_a_top_ignores_the_classifier(tiny, arrays):
    headless = models.make_model(tiny, include_top=False)
    registry.convert(headless, arrays, origin="timm")
    np.testing.assert_array_equal(headless.get_layer("top_bn").get_weights()[1], arrays["bn2.bias"])


def test_other_classes_load_the_backbone_with_a_warning(tiny, arrays):
    other = models.make_model(tiny, classes=7, name="seven")
    before = other.get_layer("predictions").get_weights()
    with pytest.warns(
        UserWarning, match="b0.pth is for 10 classes, seven for 7: its classifier is left unchanged. Train it"
    ):
        registry.convert(other, arrays, "b0.pth", origin="timm")
    np.testing.assert_array_equal(other.get_layer("predictions").get_weights()[0], before[0])
    np.testing.assert_array_equal(other.get_layer("top_bn").get_weights()[1], arrays["bn2.bias"])


# timm, layers/_manipulate.py, adapt_input_conv: one channel takes the sum; n take RGB in turn, times 3 / n
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_adapt_the_stem_with_a_warning(tiny, arrays, channels):
    other = models.make_model(tiny, classes=10, input_shape=(32, 32, channels), name="other")
    with pytest.warns(UserWarning, match=f"b0.pth is for RGB, other for images of {channels} channels: the stem is"):
        registry.convert(other, arrays, "b0.pth", origin="timm")
    red, green, blue = arrays["conv_stem.weight"].transpose(1, 2, 3, 0)
    expected = [red + green + blue] if channels == 1 else [red, green, blue, red, green, blue][:channels]
    scale = 1 if channels == 1 else 3 / channels
    kernel = other.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(kernel, np.stack(expected, axis=2) * scale, rtol=1e-6)


def test_a_grayscale_image_gives_the_same_outputs_with_one_channel_and_three(tiny, arrays):
    """With equal statistics of all channels, the sum of the kernels is equivalent to the three."""
    row = tiny._replace(mean=(127.0,) * 3, deviation=(128.0,) * 3)
    grey = reference_images(2, 32, 32)[..., :1]
    outputs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for channels in (1, 3):
            network = models.make_model(row, classes=10, input_shape=(32, 32, channels))
            registry.convert(network, arrays, origin="timm")
            outputs.append(network(np.repeat(grey, channels, axis=-1), training=False))
    np.testing.assert_allclose(*outputs, rtol=1e-4)


@pytest.mark.slow
def test_b7_is_converted_within_three_seconds_and_two_copies():
    state = read_state("tf_efficientnet_b7")
    network = make("tf_efficientnet_b7")
    size = sum(array.nbytes for array in state.values())
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    registry.convert(network, state, origin="timm")
    assert time.perf_counter() - start < 3
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    assert grown < 0.2 * size  # the two copies were there before: the arrays and the model


LOAD = """
import sys, time
import keras
keras.initializers.VarianceScaling.__call__ = keras.initializers.Zeros.__call__
from keras_efficientnet import load_weights, models

before = 4096 * int(open("/proc/self/statm").read().split()[1])
model = models.create_model(sys.argv[1])
start = time.perf_counter()
load_weights(model, sys.argv[2])
seconds = time.perf_counter() - start
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is inherited
print(seconds, 1024 * int(peak) - before)
"""


def write_zeros(path, name):
    """Writes timm's file of a network as a sparse file of zeros."""
    header, place = {}, 0
    for key, shape in read_rows("timm", f"keys_{name}"):
        counter = key.endswith("num_batches_tracked")
        end = place + (8 if counter else 4 * math.prod(shape))
        header[key] = {"dtype": "I64" if counter else "F32", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_b5", "tf_efficientnet_l2"])
def test_loading_takes_little_more_memory_than_the_model(name, tmp_path, run_python):
    size = write_zeros(tmp_path / "model.safetensors", name)
    _, grown = map(float, run_python(LOAD, name, tmp_path / "model.safetensors").split())
    assert grown < 2.2 * size


@pytest.mark.slow
def test_our_own_b7_loads_within_a_second_and_a_half(tmp_path, run_python):
    make("efficientnet-b7").save_weights(tmp_path / "b7.weights.h5")
    seconds, _ = map(float, run_python(LOAD, "efficientnet-b7", tmp_path / "b7.weights.h5").split())
    assert seconds < 1.5
