"""Published weights in the builders: from a real cache, and from a row for a tiny network."""

import dataclasses
import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
from support.reference import fill, reference_images
from support.servers import place

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training import loop
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import load_weights, resolve_weights
from keras_efficientnet.weights.registry import to_timm

IMAGES = reference_images(2, 32, 32, seed=1)

PREDICT = """
import sys
import numpy as np
import keras_efficientnet
model = keras_efficientnet.EfficientNetB0(weights="imagenet")
np.save(sys.argv[2], model(np.load(sys.argv[1]), training=False))
"""


def test_cached_imagenet_weights_restore_the_outputs(tmp_path, monkeypatch, run_python):
    model = fill(models.EfficientNetB0())
    place(tmp_path / "hf", safetensors.numpy.save(to_timm(model)))
    images = reference_images(2, 224, 224, seed=1)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run_python(PREDICT, tmp_path / "images.npy", tmp_path / "scores.npy")
    expected = model(images, training=False)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, rtol=0, atol=1e-6)


@pytest.fixture
def local(tiny, tmp_path, monkeypatch):
    """Adds a tiny network with published weights to the tables; returns the model that the weights were taken from."""
    source = fill(models.make_model(tiny))
    name = "tiny.safetensors"
    safetensors.numpy.save_file(to_timm(source), tmp_path / name)
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    (tmp_path / "models").mkdir()
    path = (tmp_path / name).rename(tmp_path / f"models/tiny-{digest[:8]}.safetensors")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(VARIANTS, "tiny", tiny)
    row = pretrained._row("tiny", "ap_in1k", pretrained.HALF, path.name, folder="http://127.0.0.1:9/")
    monkeypatch.setitem(models.BUILDERS, "tiny", models.builder("tiny"))
    monkeypatch.setattr(pretrained, "PRETRAINED", (row,))
    monkeypatch.setitem(pretrained.KEYS, row.key, row)
    return source


def predict(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


def test_images_are_normalised_with_the_statistics_of_the_weights(tiny, local):
    """AdvProp's mean and deviation are 127.5, in the model and in `preprocess_input`."""
    expected = predict(fill(models.make_model(tiny, include_preprocessing=False)), (IMAGES - 127.5) / 127.5)
    inside = models.make_model(tiny, weights="advprop")
    np.testing.assert_allclose(predict(inside), expected, rtol=0, atol=1e-6)
    outside = models.make_model(tiny, weights="advprop", include_preprocessing=False)
    pixels = models.preprocess_input(IMAGES, "tiny", weights="advprop")
    np.testing.assert_allclose(pixels, (IMAGES - 127.5) / 127.5, rtol=0, atol=1e-6)
    np.testing.assert_allclose(predict(outside, pixels), expected, rtol=0, atol=1e-6)
    assert np.abs(predict(local) - expected).max() > 1e-4  # the variant's own statistics give other outputs


def test_load_weights_accepts_published_names(tiny, local):
    """A short name needs the builder's model name; timm's full name loads into a model of any name."""
    for name, weights in (("tiny", "advprop"), ("mine", "tf_efficientnet_b0.ap_in1k")):
        model = models.make_model(tiny, name=name, include_preprocessing=False)
        load_weights(model, weights)
        expected = predict(fill(models.make_model(tiny, include_preprocessing=False)))
        np.testing.assert_array_equal(predict(model), expected)
    half = models.make_model(tiny._replace(mean=(127.5,) * 3, deviation=(127.5,) * 3), name="tiny")
    load_weights(half, "advprop")
    np.testing.assert_array_equal(predict(half), predict(models.make_model(tiny, weights="advprop")))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_model_with_other_pixel_statistics_refuses_published_weights(tiny, local, channels):
    model = models.make_model(tiny, name="tiny", input_shape=(32, 32, channels))
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"tf_efficientnet_b0.ap_in1k were trained on pixels with mean \(127.5, .*: weights='advprop'"
    ):
        load_weights(model, "advprop")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_short_name_needs_a_model_with_the_name_of_its_builder(tiny, local):
    with pytest.raises(ValueError, match="'advprop' is not a file. .* timm's full name: .* Received: 'mine'"):
        load_weights(models.make_model(tiny, name="mine"), "advprop")


def test_published_weights_change_only_the_normalisation_of_the_graph(tiny, local):
    layers = [
        models.make_model(tiny, weights=weights, name="tiny").get_config()["layers"] for weights in (None, "advprop")
    ]
    for config in layers:
        normalization = next(layer for layer in config if layer["name"] == "normalization")
        del normalization["config"]["scale"], normalization["config"]["offset"]
    assert layers[0] == layers[1]


def test_a_model_with_other_classes_or_without_a_top_loads_the_backbone(tiny, local):
    with pytest.warns(UserWarning, match="for 1000 classes, efficientnet for 7: its classifier is left unchanged"):
        model = models.make_model(tiny, classes=7, weights="advprop")
    backbone = models.make_model(tiny, include_top=False, weights="advprop")
    for loaded in (model, backbone):
        for name in ("stem_conv", "block2a_bn", "top_conv"):
            for new, old in zip(loaded.get_layer(name).get_weights(), local.get_layer(name).get_weights(), strict=True):
                np.testing.assert_array_equal(new, old)


def test_create_model_accepts_weights_after_a_dot(local):
    by_name, by_argument = models.create_model("tiny.ap_in1k"), models.create_model("tiny", weights="advprop")
    np.testing.assert_array_equal(predict(by_name), predict(by_argument))
    with pytest.raises(ValueError, match="'tiny.ap_in1k' already names weights. Received also: weights='imagenet'"):
        models.create_model("tiny.ap_in1k", weights="imagenet")
    with pytest.raises(
        ValueError, match="There are no weights 'ns_jft_in1k' of tiny. Choose one of: 'advprop', 'ap_in"
    ):
        models.create_model("tiny.ns_jft_in1k")


def test_training_starts_from_published_weights_with_their_statistics(local, tmp_path):
    size = {"width_coefficient": 0.25, "depth_coefficient": 0.5, "input_image_size": 32, "num_label_classes": 10}
    config = make_config(model_name="tiny", weights="advprop", model_dir=str(tmp_path / "run"), **size)
    variant = loop.make_variant(config)
    assert variant.mean == variant.deviation == (127.5,) * 3
    strategy = loop.make_strategy(config)
    with strategy.scope():
        run = loop.TrainState(config, variant, 640, strategy)
    with pytest.warns(UserWarning, match="for 1000 classes, efficientnet for 10"):
        assert run.restore(RunFolder(tmp_path / "run")) == 0
    for model in (run.model, run.average):
        kernel, expected = (network.get_layer("top_conv").get_weights()[0] for network in (model, local))
        np.testing.assert_array_equal(kernel, expected)
    with pytest.raises(ValueError, match="There are no weights 'imagenet' of tiny"):
        loop.make_variant(dataclasses.replace(config, weights="imagenet"))


def test_weights_resolve_to_a_network_and_a_file(tiny, local, tmp_path):
    """No weights, a path, a run folder, published weights with the network or with timm's full name."""
    assert resolve_weights(None, model_name="tiny") == ("tiny", tiny, None, None)
    assert resolve_weights(None).fetch() is None
    assert resolve_weights("b0.pth", variant=tiny).fetch() == Path("b0.pth")
    RunFolder(tmp_path / "run").path.mkdir()
    RunFolder(tmp_path / "run").write_options({"model_name": "tiny", "recipe": "official"})
    local.save(RunFolder(tmp_path / "run").model)
    source = resolve_weights(tmp_path / "run")
    assert (source.model_name, source.variant) == ("tiny", tiny)
    assert source.fetch() == RunFolder(tmp_path / "run").model
    for source in (resolve_weights("advprop", variant=tiny), resolve_weights("tf_efficientnet_b0.ap_in1k")):
        assert (source.model_name, source.variant.mean) == ("tiny", (127.5,) * 3)
        assert source.fetch().parent == tmp_path / "models"
    changed = resolve_weights("advprop", model_name="tiny", variant=tiny._replace(dropout=0.5))
    assert (changed.variant.dropout, changed.variant.mean) == (0.5, (127.5,) * 3)
    with pytest.raises(ValueError, match="'advprop' does not say which network its weights are of. Give `model_name`."):
        resolve_weights("advprop")


def test_unknown_weights_raise_an_error_before_the_network_is_built(monkeypatch):
    monkeypatch.setattr(models, "_apply_backbone", None)
    with pytest.raises(
        ValueError, match="There are no weights 'advprop' of efficientnet-lite0. Choose one of: 'imagenet'"
    ):
        models.EfficientNetLite0(weights="advprop")
    with pytest.raises(
        ValueError, match="There are no weights 'advprop' of efficientnet-lite0. Choose one of: 'imagenet'"
    ):
        models.preprocess_input(IMAGES, "efficientnet-lite0", weights="advprop")


def test_a_network_of_your_own_has_no_published_weights(tiny):
    with pytest.raises(
        ValueError, match="must be None or the path of a file for a network of your own. Rec.* 'imagenet'"
    ):
        models.make_model(tiny, weights="imagenet")
