import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.reference import fill, reference_images

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS

IMAGES = reference_images(2, 32, 32, seed=1)


def make(tiny, **arguments):
    """The tiny network with reference weights; logits unless asked otherwise."""
    return fill(models.make_model(tiny, **{"classes": 10, "classifier_activation": None, **arguments}))


def predict(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_layers_with_weights_have_the_names_and_shapes_of_keras_applications():
    shapes = []
    for builder in (models.EfficientNetB0, keras.applications.EfficientNetB0):
        layers = [layer for layer in builder(weights=None).layers if not isinstance(layer, keras.layers.Normalization)]
        shapes.append({x.name: [(w.name, tuple(w.shape)) for w in x.weights] for x in layers if x.weights})
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 131  # 49 batch norms, 49 convolutions, 2 x 16 in squeeze-and-excite, the classifier


def test_arguments_are_those_of_keras_applications_and_more():
    ours = list(inspect.signature(models.EfficientNetB0).parameters)
    theirs = [key for key in inspect.signature(keras.applications.EfficientNetB0).parameters if key != "name"]
    assert ours[: len(theirs)] == theirs
    assert ours[len(theirs) :] == ["include_preprocessing", "dropout_rate", "drop_path_rate", "name"]


@pytest.mark.parametrize("number", [0, 3])
def test_builders_have_their_names_and_the_arguments_of_make_model(number):
    build = models.BUILDERS[f"efficientnet-b{number}"]
    assert build is getattr(models, f"EfficientNetB{number}")
    assert build.__name__ == f"EfficientNetB{number}"
    assert list(inspect.signature(build).parameters) == list(inspect.signature(models.make_model).parameters)[1:]


def test_every_variant_has_its_builder():
    assert list(models.BUILDERS) == list(VARIANTS)
    assert all(getattr(models, build.__name__) is build for build in models.BUILDERS.values())


@pytest.mark.parametrize(
    ("name", "builder", "model"),
    [
        ("efficientnet-l2", "EfficientNetL2", "efficientnetl2"),
        ("efficientnet-condconv-b1-8e", "EfficientNetCondConvB1_8E", "efficientnetcondconv_b1_8e"),
        ("efficientnet-b3-pruned", "EfficientNetB3Pruned", "efficientnetb3_pruned"),
        ("efficientnet-lite0", "EfficientNetLite0", "efficientnetlite0"),
        ("efficientnet-edgetpu-S", "EfficientNetEdgeTPUS", "efficientnetedgetpu_s"),
        ("efficientnet-b0-torch", "EfficientNetB0Torch", "efficientnetb0_torch"),
    ],
)
def test_builders_and_models_are_named_after_the_variant(monkeypatch, name, builder, model):
    monkeypatch.setattr(models, "make_model", lambda variant, name: (variant, name))
    assert getattr(models, builder) is models.BUILDERS[name]
    assert models.BUILDERS[name]() == (VARIANTS[name], model)


def test_a_builder_passes_every_argument_to_make_model(monkeypatch):
    monkeypatch.setattr(models, "make_model", lambda variant, **arguments: (variant, arguments))
    names = [name for name in inspect.signature(models.EfficientNetB2).parameters]
    variant, arguments = models.EfficientNetB2(**{name: f"a {name}" for name in names})
    assert variant is VARIANTS["efficientnet-b2"]
    assert arguments == {name: f"a {name}" for name in names}
    assert models.EfficientNetB2()[1]["name"] == "efficientnetb2"


def test_the_input_has_the_variants_resolution_or_any_size_without_the_top(tiny):
    assert models.make_model(tiny._replace(resolution=48)).input_shape == (None, 48, 48, 3)
    assert models.make_model(tiny, include_top=False).input_shape == (None, None, None, 3)
    assert models.make_model(tiny, input_shape=(64, None, 3)).input_shape == (None, 64, None, 3)


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_reduces_the_last_features(tiny_b0, pooling, reduce):
    images = reference_images(2, 97, 65, seed=1)
    features = predict(make(tiny_b0, include_top=False), images)
    assert features.shape == (2, 4, 3, 320)  # 97 and 65 over 32, rounded up
    assert_close(predict(make(tiny_b0, include_top=False, pooling=pooling), images), reduce(features, axis=(1, 2)))


def test_the_top_is_mean_then_dense_then_softmax(tiny):
    whole = make(tiny)
    kernel, bias = whole.get_layer("predictions").get_weights()
    logits = predict(make(tiny, include_top=False)).mean(axis=(1, 2)) @ kernel + bias
    assert_close(predict(whole), logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_close(predict(make(tiny, classifier_activation="softmax")), shares)


def test_a_graph_for_any_size_gives_the_outputs_of_eager_mode(tiny):
    model = make(tiny, input_shape=(None, None, 3))
    traced = tf.function(lambda x: model(x, training=False), [tf.TensorSpec((None, None, None, 3))])
    for height, width in ((32, 32), (47, 60)):
        images = reference_images(1, height, width)
        assert_close(traced(images).numpy(), predict(model, images))


def test_a_model_on_an_input_tensor_is_flat_and_gives_the_same_outputs(tiny):
    image = keras.Input((32, 32, 3), name="photo")
    negative = keras.layers.Rescaling(-1.0, 255.0, name="negative")(image)
    model = make(tiny, input_tensor=negative)
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert model.input is image
    assert_close(predict(model), predict(make(tiny), 255.0 - IMAGES))


def test_an_input_tensor_may_be_the_input_itself(tiny):
    image = keras.Input((32, 32, 3), name="photo")
    model = make(tiny, input_tensor=image)
    assert model.input is image
    assert_close(predict(model), predict(make(tiny)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("bfloat16", 0.08)])  # 10 and 7 bits, 50 layers
def test_mixed_precision_predicts_in_float32_close_to_float32(tiny, set_policy, dtype, tolerance):
    expected = predict(make(tiny))
    set_policy(f"mixed_{dtype}")
    model = make(tiny)
    assert model.get_layer("top_conv").compute_dtype == dtype
    assert model(IMAGES, training=False).dtype == tf.float32
    assert_close(predict(model), expected, tolerance)
    features = make(tiny, include_top=False)(IMAGES)
    assert features.dtype == tf.as_dtype(dtype)


def test_the_graph_does_not_depend_on_the_weights(tiny, tmp_path):
    model = make(tiny, name="tiny")
    model.save_weights(tmp_path / "tiny.weights.h5")
    loaded = models.make_model(
        tiny, classes=10, classifier_activation=None, weights=str(tmp_path / "tiny.weights.h5"), name="tiny"
    )
    assert loaded.get_config() == model.get_config()
    assert_close(predict(loaded), predict(model), tolerance=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, "`pooling` must be None, 'avg' or 'max'. Received: pooling='mean'"),
        ({"classes": 0}, "`classes` must be at least 1. Received: classes=0"),
        ({"dropout_rate": 1.0}, r"`dropout_rate` must be in \[0, 1\). Received: dropout_rate=1.0"),
        ({"dropout_rate": -0.1}, r"`dropout_rate` must be in \[0, 1\). Received: dropout_rate=-0.1"),
        ({"drop_path_rate": 1}, r"`drop_path_rate` must be in \[0, 1\). Received: drop_path_rate=1"),
        (
            {"input_shape": (32, 32, None)},
            r"The input must be \(height, width, channels\).* Received: \(32, 32, None\)",
        ),
        ({"input_shape": (31, 32, 3)}, r"at least 32 \(the total stride\) or None .* Received: \(31, 32, 3\)"),
        ({"input_shape": (None, 16, 3)}, r"Received: \(None, 16, 3\)"),
        ({"input_shape": (32, 32)}, r"Received: \(32, 32\)"),
        ({"input_tensor": np.zeros((1, 16, 32, 3), "float32")}, r"Received: \(16, 32, 3\)"),
    ],
)
def test_an_argument_out_of_range_raises_an_error_with_the_received_value(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.make_model(tiny, **arguments)


def test_channels_first_raises_an_error_that_says_what_to_do(tiny):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="image_data_format='channels_first'. Call keras.config.set_image_data_f"):
            models.make_model(tiny)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", ["efficientnet-b1", "tf_efficientnet_b1"])
def test_create_model_finds_the_builder_by_name(monkeypatch, name):
    monkeypatch.setitem(models.BUILDERS, "efficientnet-b1", lambda **arguments: arguments)
    assert models.create_model(name, classes=7) == {"classes": 7}


def test_create_model_raises_for_unknown_names_and_arguments():
    with pytest.raises(
        ValueError,
        match="Unknown model 'efficientnet-b9'. Did you mean 'efficientnet-b\\d'. Choose one of: efficientnet-b0, ",
    ):
        models.create_model("efficientnet-b9")
    with pytest.raises(TypeError, match="depth"):
        models.create_model("efficientnet-b0", depth=2)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", list(VARIANTS)),
        ("*-b[67]", ["efficientnet-b6", "efficientnet-b7"]),
        ("*condconv*", [f"efficientnet-condconv-{name}" for name in ("b0-4e", "b0-8e", "b1-8e")]),
        ("*l?", ["efficientnet-l2"]),
        ("tf_efficientnet_cc_b0*", ["efficientnet-condconv-b0-4e", "efficientnet-condconv-b0-8e"]),
        ("b0", []),
    ],
)
def test_list_models_matches_shell_patterns(pattern, expected):
    assert models.list_models(pattern) == expected


@pytest.mark.parametrize(
    ("channels", "mean", "deviation"),
    [(1, [114.495], [57.63]), (4, [123.675, 116.28, 103.53, 123.675], [58.395, 57.12, 57.375, 58.395])],
)
def test_grayscale_uses_the_mean_statistics_and_extra_channels_cycle_through_rgb(tiny, channels, mean, deviation):
    # by hand: (0.485 + 0.456 + 0.406) / 3 * 255 = 114.495, (0.229 + 0.224 + 0.225) / 3 * 255 = 57.63
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, channels)).astype("float32")
    model = models.make_model(tiny, input_shape=(32, 32, channels))
    inner = keras.Model(model.input, model.get_layer("normalization").output)
    expected = (images - mean) / deviation
    np.testing.assert_allclose(inner(images), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(models.preprocess_input(images), expected, rtol=0, atol=1e-5)
    assert model.get_layer("stem_conv").get_weights()[0].shape == (3, 3, channels, 8)


def test_features_raises_for_a_model_that_is_not_an_efficientnet():
    other = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)], name="other")
    with pytest.raises(
        ValueError, match=r"`model` must be an EfficientNet of this package. other has feature maps at s"
    ):
        models.features(other)


def test_a_class_activation_map_is_the_classifier_applied_to_every_position(tiny_b0):
    """docs/models.md; Zhou et al. 2015, arxiv.org/abs/1512.04150: the mean of the map is the logit less its bias."""
    model = make(tiny_b0, input_shape=(None, None, 3))
    last = keras.Model(model.input, model.get_layer("top_activation").output)
    kernel, bias = model.get_layer("predictions").get_weights()
    maps = last.predict(reference_images(2, 97, 65), verbose=0) @ kernel
    assert maps.shape == (2, 4, 3, 10)
    assert_close(maps.mean(axis=(1, 2)), predict(model, reference_images(2, 97, 65)) - bias)
