"""Training on two logical CPUs, which are two replicas of MirroredStrategy."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.runs import REPLICAS, fixed_data, make_state

from keras_efficientnet import training
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training.devices import make_strategy, make_sum
from keras_efficientnet.training.loop import make_batches
from keras_efficientnet.training.steps import make_steps

pytestmark = pytest.mark.usefixtures("short_network")


def weights_after(config, steps):
    state = make_state(config)
    batches = make_batches(config, state.strategy, fixed_data())
    make_steps(state)(iter(batches), tf.constant(steps))
    return np.concatenate([np.ravel(v.numpy()) for v in (*state.model.weights, *state.average.weights)])


def test_two_replicas_equal_one_device():
    """Weights, statistics and averages, in the official warm-up. Without dropout: replicas have their own masks."""
    options = REPLICAS | {"dropout_rate": 0.0, "survival_prob": 1.0, "lr_warmup_epochs": 5.0}
    alone = weights_after(make_config(**options), 20)
    mirrored = weights_after(make_config(num_replicas=2, **options), 20)
    np.testing.assert_allclose(mirrored, alone, rtol=0, atol=1e-5)


def test_keras_reduces_gradients_in_the_method_we_override():
    """If Keras renames this private method, it sums gradients twice: TrainState then needs another way."""
    assert callable(keras.optimizers.Optimizer._all_reduce_sum_gradients)
    state = make_state(make_config(num_replicas=2, **REPLICAS))
    assert "_all_reduce_sum_gradients" in vars(state.optimizer)


def seeds(state):
    values = [layer.seed_generator.state.value for layer in state.random_layers()]
    return [state.strategy.experimental_local_results(value) for value in values]


def last_checkpoint(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("model", "average", "seeds"))]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_a_run_on_two_replicas_resumes_where_it_stopped(tmp_path):
    """With dropout: each replica gets its own masks again."""
    options = REPLICAS | {"num_replicas": 2, "mode": "train", "lr_schedule": "constant"}

    def config(folder, steps):
        return make_config(model_dir=str(tmp_path / folder), train_steps=steps, **options)

    assert training.run(config("uninterrupted", 6))["steps"] == 6
    training.run(config("parts", 3))
    training.run(config("parts", 6))
    expected, values = last_checkpoint(tmp_path / "uninterrupted"), last_checkpoint(tmp_path / "parts")
    assert set(expected) == set(values) and len(expected) > 100
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_one_process_has_one_strategy_for_the_same_devices():
    """TensorFlow mixes up the collective operations of two: "Shape mismatch in the collective instance"."""
    config = make_config(num_replicas=2, **REPLICAS)
    assert make_strategy(config) is make_strategy(config)


def test_sums_over_replicas_are_traced_once():
    """A new function for each call takes a trace of TensorFlow each, and memory."""
    strategy = make_strategy(make_config(num_replicas=2, **REPLICAS))
    assert [int(make_sum(strategy)(tf.constant(number))) for number in range(5)] == [0, 2, 4, 6, 8]
    assert make_sum(strategy).experimental_get_tracing_count() == 1


@pytest.mark.parametrize("mode", ["train", "train_and_eval"])
def test_an_evaluator_of_tf_config_does_not_train(monkeypatch, mode):
    cluster = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "evaluator", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match="an evaluator, which does not train"):
        make_strategy(make_config(mode=mode))
    assert make_strategy(make_config(mode="eval")).num_replicas_in_sync == 1


def test_replicas_drop_different_images_and_blocks():
    state = make_state(make_config(num_replicas=2, **REPLICAS))
    assert seeds(state) and all(first.numpy()[0] != second.numpy()[0] for first, second in seeds(state))


def test_num_replicas_with_tf_config_is_an_error(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(ValueError, match="Leave `num_replicas` out"):
        make_strategy(make_config(num_replicas=2))
