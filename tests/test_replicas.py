"""Training on two logical CPUs, which are two replicas of MirroredStrategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY

from keras_efficientnet import training
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training import loop

SMALL = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.2,
    "input_image_size": 32,
    "train_batch_size": 32,
    "eval_batch_size": 100,
    "iterations_per_loop": 3,
}


def fixed_data():
    """640 digits, the same ones for any configuration."""
    images, labels = next(
        make_datasets(make_config(), TINY._replace(resolution=32)).valid.repeat().batch(640).as_numpy_iterator()
    )
    examples = tf.data.Dataset.from_tensor_slices((images, labels))
    return Data(lambda start, *shard: examples.skip(start).repeat(), 640, None, 0, None, classes=10)


def weights_after(config, steps):
    keras.utils.set_random_seed(1)
    strategy, data = loop.make_strategy(config), fixed_data()
    with strategy.scope():
        run = loop.Run(config, loop.make_variant(config), data.train_images, strategy)
    take_steps = loop.make_steps(strategy, run)
    take_steps(iter(loop._train_batches(config, strategy, 0, data)), tf.constant(steps))
    return np.concatenate([np.ravel(v.numpy()) for v in (*run.model.weights, *run.average.weights)])


def test_two_replicas_are_one_device():
    """Weights, statistics and averages, in the official warm-up. Dropout is off: replicas draw their own masks."""
    options = SMALL | {"dropout_rate": 0.0, "survival_prob": 1.0, "lr_warmup_epochs": 5.0}
    alone = weights_after(make_config(**options), 20)
    mirrored = weights_after(make_config(num_replicas=2, **options), 20)
    np.testing.assert_allclose(mirrored, alone, rtol=0, atol=1e-5)


def seeds(run):
    return [run.strategy.experimental_local_results(layer.seed_generator.state.value) for layer in run._random_layers()]


def last_checkpoint(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("model", "average", "seeds"))]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_a_run_on_two_replicas_goes_on_where_it_stopped(tmp_path):
    """With dropout: each replica gets its own masks again."""

    shallow = SMALL | {"num_replicas": 2, "mode": "train", "lr_schedule": "constant"}

    def config(folder, steps):
        return make_config(model_dir=str(tmp_path / folder), train_steps=steps, **shallow)

    assert training.run(config("whole", 6))["steps"] == 6
    training.run(config("parts", 3))
    training.run(config("parts", 6))
    whole, parts = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "parts")
    assert set(whole) == set(parts) and len(whole) > 100
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_one_process_has_one_strategy_for_the_same_devices():
    """TensorFlow mixes up the collective operations of two: "Shape mismatch in the collective instance"."""
    config = make_config(num_replicas=2, **SMALL)
    assert loop.make_strategy(config) is loop.make_strategy(config)


def test_replicas_drop_different_images_and_blocks():
    config = make_config(num_replicas=2, **SMALL)
    strategy = loop.make_strategy(config)
    with strategy.scope():
        run = loop.Run(config, loop.make_variant(config), 1442, strategy)
    assert seeds(run) and all(first.numpy()[0] != second.numpy()[0] for first, second in seeds(run))


def test_num_replicas_beside_tf_config_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}')
    with pytest.raises(ValueError, match="Leave `num_replicas` out"):
        loop.make_strategy(make_config(num_replicas=2))
