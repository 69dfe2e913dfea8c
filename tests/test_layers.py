import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_efficientnet.layers import BatchNormalization

# every expected number here is that of Keras's own layer
ARGUMENTS = {"momentum": 0.9, "epsilon": 1e-3}
SHAPE = (4, 6, 5, 3)


def make_pair(shape=SHAPE, **arguments):
    """Our layer and Keras's with the same weights, none of them as it starts."""
    pair = [layer(**{**ARGUMENTS, **arguments}) for layer in (BatchNormalization, keras.layers.BatchNormalization)]
    rng = np.random.default_rng(0)
    values = None
    for layer in pair:
        layer.build(shape)
        values = values or [rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights]
        layer.set_weights(values)
    return pair


def make_images(seed=0, shape=SHAPE, dtype="float32"):
    return tf.constant(np.random.default_rng(seed).normal(3.0, 2.0, shape).astype("float32"), dtype)


def run(layer, x, training):
    """Outputs, and the gradients of a weighted sum of them with respect to the input and the trainable weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32") * make_images(9, x.shape))
    gradients = tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])
    return [keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")) for value in (y, *gradients)]


def assert_same(ours, theirs, tolerance=2e-6):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=tolerance * max(1.0, np.abs(their).max()))


def forbid_fused(monkeypatch):
    def fail(*arguments, **named):
        raise AssertionError("used the fused kernel")

    monkeypatch.setattr(BatchNormalization, "_fused", fail)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_keras(training):
    ours, theirs = make_pair()
    results = [run(layer, make_images(), training) for layer in (ours, theirs)]
    assert [result.shape for result in results[0]] == [SHAPE, SHAPE, (3,), (3,)]
    assert_same(*results, tolerance=1e-5)


def test_training_uses_the_fused_kernel(monkeypatch):
    forbid_fused(monkeypatch)
    with pytest.raises(AssertionError, match="used the fused kernel"):
        make_pair()[0](make_images(), training=True)


def test_moving_statistics_follow_those_of_keras_over_several_steps():
    ours, theirs = make_pair()
    before = ours.get_weights()
    for step in range(5):
        for layer in (ours, theirs):
            layer(make_images(step), training=True)
    assert_same(ours.get_weights(), theirs.get_weights())
    assert np.abs(ours.get_weights()[2] - before[2]).min() > 0.1


def test_moving_variance_follows_the_biased_variance_of_the_batch():
    # by hand: 0 and 4 have mean 2, and variance 4 when divided by 2, not by 1; the layer starts at 0 and 1
    layer = BatchNormalization(momentum=0.75)
    layer(tf.constant([0.0, 4.0], shape=(1, 1, 2, 1)), training=True)
    assert layer.moving_mean.numpy() == pytest.approx([0.75 * 0 + 0.25 * 2])
    assert layer.moving_variance.numpy() == pytest.approx([0.75 * 1 + 0.25 * 4])


def test_inference_does_not_change_the_moving_statistics():
    layer = make_pair()[0]
    before = layer.get_weights()
    layer(make_images(), training=False)
    assert_same(layer.get_weights(), before, tolerance=0)


def test_a_frozen_layer_uses_its_statistics_while_the_model_trains():
    ours, theirs = make_pair(trainable=False)
    before = ours.get_weights()
    assert_same(*(run(layer, make_images(), True) for layer in (ours, theirs)), tolerance=1e-5)
    assert_same(ours.get_weights(), before, tolerance=0)


@pytest.mark.parametrize("training", [True, False])
def test_one_pixel_in_a_batch_of_one_is_finite(training):
    ours, theirs = make_pair(shape=(1, 1, 1, 3))
    assert_same(*(run(layer, make_images(shape=(1, 1, 1, 3)), training) for layer in (ours, theirs)), tolerance=1e-5)
    assert_same(ours.get_weights(), theirs.get_weights())
    assert np.isfinite(np.concatenate(ours.get_weights())).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-7), ("float16", 2**-10)])  # the types' own steps
def test_mixed_precision_agrees_to_the_types_own_step(dtype, tolerance, training):
    ours, theirs = make_pair(dtype=f"mixed_{dtype}")
    outputs = [layer(make_images(dtype=dtype), training=training) for layer in (ours, theirs)]
    assert {output.dtype for output in outputs} == {tf.as_dtype(dtype)}
    assert_same(*([tf.cast(output, "float32").numpy()] for output in outputs), tolerance=tolerance)
    assert {weight.dtype for weight in ours.weights} == {"float32"}
    assert_same(ours.get_weights(), theirs.get_weights())


def test_a_graph_of_unknown_sizes_gives_the_eager_numbers():
    eager, traced = make_pair()[0], make_pair()[0]
    run_traced = tf.function(lambda x: traced(x, training=True), [tf.TensorSpec((None, None, None, 3))])
    assert_same([run_traced(make_images())], [eager(make_images(), training=True).numpy()])
    assert_same(traced.get_weights(), eager.get_weights())


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"axis": 1}, SHAPE),
        ({"scale": False}, SHAPE),
        ({"center": False}, SHAPE),
        ({"dtype": "float64"}, SHAPE),
        ({}, (7, 3)),
    ],
    ids=["axis", "no_scale", "no_center", "float64", "rank_2"],
)
def test_unsupported_inputs_use_keras_implementation(monkeypatch, arguments, shape):
    forbid_fused(monkeypatch)
    ours, theirs = make_pair(shape, **arguments)
    x = make_images(shape=shape, dtype=arguments.get("dtype", "float32"))
    assert_same(*([layer(x, training=True).numpy()] for layer in (ours, theirs)))
    assert_same(ours.get_weights(), theirs.get_weights())


def test_a_mask_uses_keras_implementation(monkeypatch):
    forbid_fused(monkeypatch)
    ours, theirs = make_pair()
    mask = tf.constant(np.random.default_rng(1).random(SHAPE[:3]) < 0.5)
    assert_same(*([layer(make_images(), training=True, mask=mask).numpy()] for layer in (ours, theirs)))
    assert_same(ours.get_weights(), theirs.get_weights())


def test_config_round_trip_needs_no_custom_objects():
    layer = BatchNormalization(momentum=0.9, epsilon=1e-4, synchronized=True, name="stem_bn")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is BatchNormalization
    assert copy.get_config() == layer.get_config()
    assert (copy.momentum, copy.epsilon, copy.synchronized, copy.name) == (0.9, 1e-4, True, "stem_bn")
