"""Compares with TensorFlow 1's optimizer, and with golden/training.json from the official code on TensorFlow 1.15."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_efficientnet.optimizers import RMSprop, average_decay, make_learning_rate, make_optimizer
from keras_efficientnet.recipes import make_config

GOLDEN = json.loads((Path(__file__).parent / "golden/training.json").read_text())
RATES = GOLDEN["learning_rates"]


def tensorflow_1(start, gradients):
    """Returns the weights after each step of TensorFlow 1's own optimizer."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weights = tf.compat.v1.get_variable("w", initializer=start, use_resource=True)
        gradient = tf.compat.v1.placeholder(tf.float32, start.shape)
        optimizer = tf.compat.v1.train.RMSPropOptimizer(0.05, decay=0.9, momentum=0.9, epsilon=0.001)
        update = optimizer.apply_gradients([(gradient, weights)])
        session.run(tf.compat.v1.global_variables_initializer())
        with tf.control_dependencies([update]):
            after = weights.read_value()
        return [session.run(after, {gradient: each}) for each in gradients]


def test_rmsprop_equals_tensorflow_1_over_20_steps():
    random = np.random.RandomState(0)
    start = random.randn(4, 3).astype("float32")
    gradients = random.randn(20, 4, 3).astype("float32")
    weights, optimizer = keras.Variable(start), RMSprop(0.05)
    for gradient, expected in zip(gradients, tensorflow_1(start, gradients), strict=True):
        optimizer.apply([tf.constant(gradient)], [weights])
        np.testing.assert_allclose(weights.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(GOLDEN["optimizers"]))
def test_optimizer_steps_equal_the_official_code(name):
    run = GOLDEN["optimizers"][name]
    config = make_config(optimizer=run["optimizer"])
    rates = iter(run["learning_rates"])
    optimizer = make_optimizer(config, 0.0)
    weights = keras.Variable(np.array(run["start"], "float32"))
    for gradient, expected in zip(run["gradients"], run["weights"], strict=True):
        optimizer.learning_rate = next(rates)
        optimizer.apply([tf.constant(gradient)], [weights])
        np.testing.assert_allclose(weights.numpy(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "run", RATES, ids=[run["lr_schedule"] + f"_{run['train_batch_size']}" + f"_{i}" for i, run in enumerate(RATES)]
)
def test_learning_rate_equals_the_official_code(run):
    config = make_config(
        recipe="official",
        lr_schedule=run["lr_schedule"],
        train_batch_size=run["train_batch_size"],
        lr_warmup_epochs=run["lr_warmup_epochs"],
        base_learning_rate=run["base_learning_rate"],
        lr_decay_epoch=run["lr_decay_epoch"],
        lr_decay_factor=run["lr_decay_factor"],
        train_steps=run["train_steps"],
    )
    rate = make_learning_rate(config, run["steps_per_epoch"])
    steps, expected = zip(*run["rows"], strict=True)
    np.testing.assert_allclose([float(rate(step)) for step in steps], expected, rtol=2e-5, atol=1e-9)


def test_average_decay_starts_small_and_ends_at_its_value():
    for step, expected in GOLDEN["average_decay"]:
        assert float(average_decay(0.9999, step)) == pytest.approx(expected, rel=1e-6)


def test_weight_average_equals_the_official_shadow_variable():
    run = GOLDEN["average"]
    expected = {row["global_step"]: row["shadow"] for row in run["rows"]}
    shadow = np.array(expected[0])
    for step in range(1, max(expected) + 1):
        values = np.array([np.cos(0.05 * step) + 2, -0.5 * step / 100])  # as in the script that made the golden file
        shadow = shadow - (1 - float(average_decay(run["decay"], step))) * (shadow - values)
        if step in expected:
            np.testing.assert_allclose(shadow, expected[step], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["exponential", "cosine", "cosine_after_warmup", "poly", "constant"])
def test_optimizer_and_schedule_are_serialized_and_restored(schedule):
    config = make_config(lr_schedule=schedule)
    optimizer = make_optimizer(config, make_learning_rate(config, 45.0))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(again, RMSprop) and again.epsilon == 1e-3
    for each in (optimizer, again):
        each.iterations.assign(100)
    rates = [float(each.learning_rate) for each in (optimizer, again)]
    assert rates[0] == rates[1] > 0
