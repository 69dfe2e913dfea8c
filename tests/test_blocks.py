import keras
import numpy as np
import pytest
import tensorflow as tf
from support.originals import slow_if_large

from keras_efficientnet import models
from keras_efficientnet.layers import BatchNormalization


@pytest.fixture(scope="module")
def wide(tiny_b0):
    """A new network with many weights in each layer, for tiny_b0 images."""
    keras.utils.set_random_seed(0)
    return models.make_model(tiny_b0._replace(width=1.0, depth=1.0))


def kernels(model, suffix, side=None):
    """Returns the values of all kernels in layers with this suffix, and of this side."""
    layers = [layer for layer in model.layers if layer.name.endswith(suffix)]
    found = [layer.get_weights()[0] for layer in layers]
    return np.concatenate([kernel.ravel() for kernel in found if side in (None, kernel.shape[0])])


# tensorflow/tpu, efficientnet_model.py, conv_kernel_initializer: normal, not truncated, deviation sqrt(2 / fan_out)
@pytest.mark.parametrize(
    ("layer", "fan_out"),
    [("stem_conv", 9 * 32), ("block6b_expand_conv", 1152), ("block6b_se_reduce", 48), ("top_conv", 1280)],
)
def test_convolution_kernels_start_from_a_normal_distribution_by_fan_out(wide, layer, fan_out):
    values = kernels(wide, layer)
    assert values.std() == pytest.approx(np.sqrt(2 / fan_out), rel=4 / np.sqrt(2 * values.size))
    assert abs(values.mean()) < 4 * np.sqrt(2 / fan_out / values.size)


# fan_out is the window alone there: sqrt(2 / 9), sqrt(2 / 25)
@pytest.mark.parametrize(("side", "deviation"), [(3, 0.4714), (5, 0.2828)])
def test_depthwise_kernels_start_from_a_normal_distribution_by_window(wide, side, deviation):
    values = kernels(wide, "_dwconv", side)
    assert values.std() == pytest.approx(deviation, rel=4 / np.sqrt(2 * values.size))


@pytest.mark.parametrize("layer", ["top_conv", "_dwconv"])
def test_the_normal_distribution_is_not_truncated(wide, layer):
    values = kernels(wide, layer, None if layer == "top_conv" else 5)
    far = np.abs(values) / values.std()
    # a normal distribution has 4.55 % beyond two deviations and 0.27 % beyond three; Keras's truncated one none there
    assert np.mean(far > 2) == pytest.approx(0.0455, rel=0.1)
    assert np.mean(far > 3) == pytest.approx(0.0027, rel=0.4)


def test_the_classifier_starts_from_a_uniform_distribution_by_classes(tiny):
    # efficientnet_model.py, dense_kernel_initializer: uniform in +-1 / sqrt(classes); zero bias
    keras.utils.set_random_seed(0)
    kernel, bias = models.make_model(tiny, classes=100).get_layer("predictions").get_weights()
    assert kernel.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert 0.0999 < np.abs(kernel).max() <= 0.1
    assert not bias.any()


def test_biases_start_at_zero_and_batch_norms_as_the_identity(wide):
    assert not wide.get_layer("block2a_se_expand").get_weights()[1].any()
    starts = [float(weight.mean()) for weight in wide.get_layer("block2a_bn").get_weights()]
    assert starts == [1, 0, 0, 1]


def test_equal_layers_start_with_different_values(wide):
    draws = [kernels(wide, f"block6{letter}_dwconv")[:25].tobytes() for letter in "bcd"]
    assert len(set(draws)) == 3


@pytest.fixture(scope="module", params=[slow_if_large(f"efficientnet-b{number}") for number in range(9)])
def official(request):
    """Each official network, built once: its name and its layers by name."""
    with pytest.MonkeyPatch.context() as patch:  # the tests read no values, and random values cost time
        patch.setattr(keras.initializers.VarianceScaling, "__call__", keras.initializers.Zeros.__call__)
        model = models.create_model(request.param)
    return request.param, {layer.name: layer for layer in model.layers}


def test_trainable_parameter_counts_are_the_published_ones(official):
    # tensorflow/tpu, efficientnet_model.py by its own counter; B0 to B7 also keras.applications
    published = [5288548, 7794184, 9109994, 12233232, 19341616, 30389784, 43040704, 66347960, 87413142]
    name, layers = official
    trainable = (weight for layer in layers.values() for weight in layer.trainable_weights)
    assert sum(np.prod(weight.shape) for weight in trainable) == published[int(name[-1])]


def test_drop_path_has_the_official_rates_at_skip_connections(official, golden):
    name, layers = official
    rates = {name: layer.rate for name, layer in layers.items() if name.endswith("_drop")}
    blocks = [name.removesuffix("_dwconv") for name in layers if name.endswith("_dwconv")]
    expected = golden("survival")["models"][name]
    assert rates == pytest.approx(
        {f"{blocks[index]}_drop": 1 - expected["survival"][index] for index in expected["shortcuts"]}
    )
    assert [layers[drop].noise_shape for drop in rates] == [(None, 1, 1, 1)] * len(rates)


def test_every_batch_norm_has_the_official_momentum_and_epsilon(official):
    # tensorflow/tpu, efficientnet_builder.py: batch_norm_momentum=0.99, batch_norm_epsilon=1e-3
    norms = [layer for layer in official[1].values() if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(type(norm), norm.momentum, norm.epsilon) for norm in norms} == {(BatchNormalization, 0.99, 1e-3)}


def test_dropout_has_the_official_rate(official):
    # tensorflow/tpu, efficientnet_builder.py, efficientnet_params
    published = [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5]
    name, layers = official
    assert layers["top_dropout"].rate == published[int(name[-1])]


@pytest.mark.slow
def test_l2_has_the_published_parameters():
    # Xie et al. 2020, arxiv.org/abs/1911.04252: 480 M; timm 1.0.31, tf_efficientnet_l2: 480,309,308
    model = models.create_model("efficientnet-l2")
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == 480_309_308


def test_rates_can_be_chosen(tiny_b0):
    model = models.make_model(tiny_b0, dropout_rate=0.7, drop_path_rate=0.5)
    rates = {layer.name: layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    # by hand: of ten blocks, the 4th, 6th and 8th after the first have a skip connection
    assert rates == pytest.approx({"block4b_drop": 0.2, "block5b_drop": 0.3, "block6b_drop": 0.4, "top_dropout": 0.7})


def test_rates_of_zero_omit_the_dropout_layers(tiny):
    model = models.make_model(tiny, dropout_rate=0.0, drop_path_rate=0.0)
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]


@pytest.fixture(scope="module")
def dropped(tiny_b0):
    """Outputs of a block with a skip connection for 200 images in training: input, branch, branch after drop, sum."""
    keras.utils.set_random_seed(0)
    model = models.make_model(tiny_b0, drop_path_rate=0.5)
    names = ("block6a_project_bn", "block6b_project_bn", "block6b_drop", "block6b_add")
    ends = keras.Model(model.input, [model.get_layer(name).output for name in names])
    images = tf.random.stateless_uniform((200, 32, 32, 3), (1, 2), 0.0, 255.0)
    return [output.numpy() for output in ends(images, training=True)]


def test_drop_path_drops_single_images_and_scales_the_others(dropped):
    _, branch, kept, _ = dropped
    survived = np.abs(kept).max(axis=(1, 2, 3)) > 0
    # Huang et al. 2016: survives with probability 0.6 (the 8th of ten blocks after the first), and is divided by it
    assert survived.mean() == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / 200))
    np.testing.assert_allclose(kept[survived], branch[survived] / 0.6, rtol=1e-5)


def test_a_dropped_image_passes_the_block_unchanged(dropped):
    before, _, kept, after = dropped
    dropped_images = ~kept.any(axis=(1, 2, 3))
    assert dropped_images.any()
    np.testing.assert_array_equal(after[dropped_images], before[dropped_images])
