"""Classifiers for other classes, of every origin: with a background, of ImageNet-21k and -12k."""

import warnings

import keras
import numpy as np
import pytest
from support.reference import fill

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.registry import to_timm

ORIGINS = [name for name in registry.ORIGINS if name != "ours"]


@pytest.fixture(scope="module", params=ORIGINS)
def origin(request):
    return registry.ORIGINS[request.param]


def build(tiny, origin, classes):
    row = tiny._replace(padding="symmetric", epsilon=1e-5) if origin.graph == ("symmetric", 1e-5) else tiny
    return models.make_model(row, classes=classes, name=f"of{classes}")


def numbered(tiny, origin, classes):
    """Returns a network in which class i has the bias i, and its arrays in the origin's form."""
    model = build(tiny, origin, classes)
    kernel, _ = model.get_layer("predictions").get_weights()
    kernel[:] = 0.001 * np.arange(classes)
    model.get_layer("predictions").set_weights([kernel, np.arange(classes, dtype="float32")])
    return model, {pair.key: array for pair, array in extract(model, origin)}


def test_a_model_for_1000_classes_drops_the_background(tiny, origin):
    source, arrays = numbered(tiny, origin, 1001)
    model = build(tiny, origin, 1000)
    with pytest.warns(UserWarning, match="x is for 1001 classes, the background first: of1000 uses the other 1000"):
        registry.convert(model, arrays, "x", origin=origin.name)
    kernel, bias = model.get_layer("predictions").get_weights()
    np.testing.assert_array_equal(bias, np.arange(1, 1001))
    np.testing.assert_array_equal(kernel, source.get_layer("predictions").get_weights()[0][:, 1:])


def test_a_model_for_1001_classes_keeps_the_background(tiny, origin):
    _, arrays = numbered(tiny, origin, 1001)
    model = build(tiny, origin, 1001)
    registry.convert(model, arrays, origin=origin.name)
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[1], np.arange(1001))


@pytest.mark.parametrize(("classes", "words"), [(21843, "ImageNet-21k"), (11821, "ImageNet-12k")])
def test_warnings_name_the_larger_imagenets(tiny, classes, words):
    origin = registry.ORIGINS["timm"]
    _, arrays = numbered(tiny, origin, classes)
    same, other = build(tiny, origin, classes), build(tiny, origin, 1000)
    registry.convert(same, arrays)
    assert same.get_layer("predictions").get_weights()[1][-1] == classes - 1
    before = other.get_layer("predictions").get_weights()
    message = f"is for {classes} classes, those of {words}, of1000 for 1000: its classifier is left unchanged. Train it"
    with pytest.warns(UserWarning, match=message):
        registry.convert(other, arrays)
    np.testing.assert_array_equal(other.get_layer("predictions").get_weights()[0], before[0])
    np.testing.assert_array_equal(other.get_layer("top_bn").get_weights()[0], arrays["bn2.weight"])


@pytest.mark.parametrize("classes", [12, 1001])
def test_other_classes_keep_the_classifier_with_a_warning(tiny, origin, classes):
    _, arrays = numbered(tiny, origin, classes)
    model = build(tiny, origin, 7)
    before = model.get_layer("predictions").get_weights()
    with pytest.warns(
        UserWarning, match=f"is for {classes} classes, of7 for 7: its classifier is left unchanged. Train it"
    ):
        registry.convert(model, arrays, origin=origin.name)
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[0], before[0])


def test_other_channels_adapt_the_stem(tiny, origin):
    _, arrays = numbered(tiny, origin, 7)
    row = tiny._replace(padding="symmetric", epsilon=1e-5) if origin.graph == ("symmetric", 1e-5) else tiny
    model = models.make_model(row, classes=7, input_shape=(32, 32, 1))
    with pytest.warns(UserWarning, match="is for RGB, .* for images of 1 channels: the stem is adapted"):
        registry.convert(model, arrays, origin=origin.name)
    kernel = arrays[f"{origin.ends['stem_conv']}{origin.separator}{origin.leaves['kernel']}"]
    kernel = kernel.transpose(2, 3, 1, 0) if origin.separator == "." else kernel
    np.testing.assert_allclose(model.get_layer("stem_conv").get_weights()[0], kernel.sum(2, keepdims=True), rtol=1e-6)


def test_a_classifier_of_another_width_is_refused(tiny, origin):
    source, arrays = numbered(tiny, origin, 7)
    name = f"{origin.ends['predictions']}{origin.separator}{origin.leaves['kernel']}"
    arrays[name] = np.concatenate([arrays[name]] * 2, axis=1 if origin.separator == "." else 0)
    with pytest.raises(
        ValueError, match="does not match of9: .* Build the model with classes=7, or with include_top=Fal"
    ):
        registry.convert(build(tiny, origin, 9), arrays, origin=origin.name)


def test_a_warning_raised_as_an_error_leaves_the_network_unchanged(tiny):
    """As with `python -W error`."""
    model = models.make_model(tiny, classes=7)
    before = model.get_weights()
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="its classifier is left unchanged"):
        warnings.simplefilter("error", UserWarning)
        registry.convert(model, to_timm(fill(models.make_model(tiny, classes=10))))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_our_own_file_with_a_background_loads_into_1000_classes(tiny, tmp_path):
    source, _ = numbered(tiny, registry.ORIGINS["ours"], 1001)
    source.save_weights(tmp_path / "x.weights.h5")
    model = models.make_model(tiny)
    with pytest.warns(UserWarning, match="the background first"):
        load_weights(model, tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[1], np.arange(1, 1001))


def test_training_loads_the_backbone_of_our_own_file_for_other_classes(tiny, tmp_path):
    keras.utils.set_random_seed(0)
    models.make_model(tiny, classes=5).save_weights(tmp_path / "x.weights.h5")
    model = models.make_model(tiny, classes=7)
    before = model.get_layer("predictions").get_weights()
    with pytest.warns(UserWarning, match="x.weights.h5 is for 5 classes, efficientnet for 7"):
        load_weights(model, tmp_path / "x.weights.h5", other_classes=True)
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[0], before[0])
