"""Effects of the options of recipes on training: accumulation, clipping, precision, frozen layers, start weights."""

import contextlib
import dataclasses
import functools
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.runs import REPLICAS, SMALL, fixed_data, make_state, run_main

from keras_efficientnet import training
from keras_efficientnet.architectures import STAGES
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model
from keras_efficientnet.recipes import RECIPES, make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.loop import Trainer, complete_config, make_batches
from keras_efficientnet.training.state import make_variant, set_batch_norms
from keras_efficientnet.training.steps import decayed_variables, make_replica_step, make_steps

pytestmark = pytest.mark.usefixtures("short_network")

STILL = REPLICAS | {"dropout_rate": 0.0, "survival_prob": 1.0, "lr_warmup_epochs": 0.0}
PLAIN = STILL | {"optimizer": "sgd", "lr_schedule": "constant", "weight_decay": 0.0, "base_learning_rate": 0.8}


def run_steps(state, steps, data=None):
    """Runs training steps and returns their mean loss."""
    batches = make_batches(state.config, state.strategy, data or fixed_data())
    return float(make_steps(state)(iter(batches), tf.constant(steps)))


def values(variables):
    return np.concatenate([np.ravel(v.numpy()).astype("float32") for v in variables])


def trained(steps=4, **options):
    state = make_state(make_config(**options))
    run_steps(state, steps)
    return state


def test_a_batch_in_two_parts_equals_a_batch_on_two_replicas():
    """Two parts on one device see the images that two replicas see, each with its own batch statistics."""
    parts = trained(**PLAIN, accumulate_steps=2)
    replicas = trained(**PLAIN, num_replicas=2, batch_norm_sync="none")
    np.testing.assert_allclose(
        values(parts.model.trainable_variables), values(replicas.model.trainable_variables), rtol=0, atol=2e-6
    )


def test_a_batch_in_parts_equals_an_undivided_batch_if_batch_norms_are_frozen():
    frozen = STILL | {"frozen_layers": "batch_norm"}
    undivided, parts = (trained(**frozen, accumulate_steps=count) for count in (1, 4))
    assert undivided.step == parts.step == 4
    for side in ("model", "average"):
        sides = [values(getattr(state, side).weights) for state in (parts, undivided)]
        np.testing.assert_allclose(*sides, rtol=0, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_gradients_are_clipped_after_they_are_summed(replicas):
    """The step of plain gradient descent then has the norm learning rate times maximum."""
    state = make_state(make_config(**PLAIN, num_replicas=replicas, gradient_clip_norm=0.01))
    before = values(state.model.trainable_variables)
    run_steps(state, 1)
    rate = 0.8 * 32 / 256
    assert np.linalg.norm(values(state.model.trainable_variables) - before) == pytest.approx(rate * 0.01, rel=1e-3)


@functools.cache
def take_step(precision):
    """Returns the state after a step in a precision, and the change of the weights."""
    state = make_state(make_config(**PLAIN, precision=precision))
    before = values(state.model.trainable_variables)
    if precision == "float16":
        state.optimizer.dynamic_scale.assign(256.0)
    run_steps(state, 1)
    return state, values(state.model.trainable_variables) - before


@pytest.mark.parametrize("precision, tolerance", [("bfloat16", 0.01), ("float16", 0.002)])
def test_mixed_precision_makes_the_step_of_float32(precision, tolerance):
    """Up to rounding: bfloat16, of 8 bits, was 0.0028 of the step away; float16, of 11, 0.0006."""
    (_, exact), (state, mixed) = take_step("float32"), take_step(precision)
    assert 0 < np.linalg.norm(exact - mixed) < tolerance * np.linalg.norm(exact)
    assert {layer.compute_dtype for layer in state.model.layers[1:-3]} == {precision}
    assert keras.config.dtype_policy().name == "float32"  # of the rest of the process
    assert state.to_classifier().get_layer("stem_conv").compute_dtype == "float32"


@pytest.mark.parametrize("bad", [0, 1])
def test_an_overflow_on_one_replica_skips_the_step_on_both_and_halves_the_scale(bad):
    data = fixed_data()

    def spoil(index, example):
        image, label = example
        return tf.where((index >= 16 * bad) & (index < 16 * (bad + 1)), 1e6, image), label

    spoiled = data._replace(train=lambda *start: data.train(*start).enumerate().map(spoil))
    state = make_state(make_config(**PLAIN, num_replicas=2, precision="float16", batch_norm_sync="none"))
    before, scale = values(state.model.trainable_variables), float(state.optimizer.dynamic_scale.numpy())
    state.optimizer.dynamic_scale.assign(1e38)  # overflows for sure
    run_steps(state, 1, spoiled)
    np.testing.assert_array_equal(values(state.model.trainable_variables), before)
    assert state.step == 0 and int(state.batches_taken.numpy()) == 1
    assert float(state.optimizer.dynamic_scale.numpy()) == pytest.approx(5e37) and scale == 2**15


def test_statistics_of_local_batch_norms_are_averaged():
    state = make_state(make_config(**PLAIN, num_replicas=2, batch_norm_sync="none"))
    run_steps(state, 2)
    moving = state.model.get_layer("stem_bn").moving_mean.value
    first, second = (each.numpy() for each in state.strategy.experimental_local_results(moving))
    assert np.abs(first - second).max() > 1e-4
    state.synchronize_statistics()
    for each in state.strategy.experimental_local_results(moving):
        np.testing.assert_allclose(each.numpy(), (first + second) / 2, rtol=1e-5)


@pytest.mark.slow
def test_groups_of_replicas_share_their_batch_statistics(run_python):
    """Four replicas in groups of two: each pair has the mean and variance of its own two batches."""
    code = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
from keras_efficientnet import training
from keras_efficientnet.architectures import STAGES
from keras_efficientnet.layers import BatchNormalization
x = np.random.default_rng(0).normal(2.0, 3.0, (4, 8, 3, 3, 5)).astype("float32")
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
with strategy.scope():
    layer = BatchNormalization(momentum=0.0, epsilon=1e-6, synchronized=True)
    layer.build((None, 3, 3, 5))
layer.group = 2
batches = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(x[context.replica_id_in_sync_group]))
outputs = strategy.run(tf.function(lambda b: layer(b, training=True)), args=(batches,))
for i, y in enumerate(strategy.experimental_local_results(outputs)):
    pair = np.concatenate([x[i // 2 * 2], x[i // 2 * 2 + 1]])
    mean, deviation = pair.mean((0, 1, 2)), pair.std((0, 1, 2))
    np.testing.assert_allclose(y, (x[i] - mean) / deviation, rtol=0, atol=1e-4)
means = [m.numpy() for m in strategy.experimental_local_results(layer.moving_mean.value)]
np.testing.assert_allclose(means[2], x[2:].mean((0, 1, 2, 3)), rtol=1e-5)
print("right")
"""
    assert run_python(code).split() == ["right"]


@pytest.mark.parametrize("replicas, group", [(8, 1), (16, 8), (64, 8), (128, 16)])
def test_groups_have_the_official_size(tiny, replicas, group):
    """utils.TpuBatchNormalization: up to 8 each for itself, else max(8, shards // 8)."""
    model = make_model(tiny, classes=3)
    set_batch_norms(model, make_config(batch_norm_sync="groups", batch_norm_momentum=0.5), replicas)
    layer = model.get_layer("block1a_bn")
    assert (layer.group, layer.synchronized, layer.momentum) == (group, group > 1, 0.5)


def test_groups_that_do_not_divide_the_replicas_are_an_error(tiny):
    with pytest.raises(ValueError, match="needs a multiple of 8 replicas. Received: 12 replicas"):
        set_batch_norms(make_model(tiny, classes=3), make_config(batch_norm_sync="groups"), 12)


@pytest.mark.parametrize("pattern, trains", [("backbone", "predictions"), ("(stem|block1).*", "block2|top|pred")])
def test_frozen_layers_do_not_change(pattern, trains):
    state = make_state(make_config(**PLAIN, frozen_layers=pattern))
    before = {v.path: v.numpy() for v in state.model.weights}
    run_steps(state, 2)
    changed = {v.path.split("/")[0] for v in state.model.weights if np.any(before[v.path] != v.numpy())}
    assert changed and all(any(name.startswith(word) for word in trains.split("|")) for name in changed)
    assert any(name.startswith("predictions") for name in changed)


@pytest.mark.parametrize(
    "pattern, message",
    [("nothing", "it matches no layer"), (".*", "must leave a layer to train"), ("(", "must be a regular expression")],
)
def test_frozen_layers_that_make_no_sense_are_an_error(pattern, message):
    with pytest.raises(ValueError, match=message):
        make_state(make_config(**PLAIN, frozen_layers=pattern))


def test_fine_tuning_starts_from_a_file_with_other_classes(tmp_path, recwarn):
    config = make_config(**PLAIN, model_dir=str(tmp_path / "run"))
    source = make_model(make_variant(config)._replace(stages=STAGES[:2]), classes=7)
    source.save_weights(tmp_path / "seven.weights.h5")
    state = make_state(dataclasses.replace(config, weights=str(tmp_path / "seven.weights.h5")))
    assert state.restore(RunFolder(tmp_path / "run")) == 0
    assert "is for 7 classes" in str(recwarn.pop(UserWarning).message)
    for model in (state.model, state.average):
        np.testing.assert_array_equal(
            model.get_layer("top_conv").get_weights()[0], source.get_layer("top_conv").get_weights()[0]
        )
        assert model.get_layer("predictions").kernel.shape[-1] == 10


def test_epochs_are_counted_in_steps():
    config = complete_config(make_config(train_epochs=2.5, train_batch_size=32), fixed_data())
    assert config.train_steps == 50  # 2.5 * 640 / 32


def test_mosaicml_decays_batch_norms_too():
    config = make_config(recipe="mosaicml", input_image_size=32)
    model = make_model(make_variant(config))
    decayed = decayed_variables(model, config.decay_batch_norm)
    assert len(decayed) == len(model.trainable_variables) == 115 + 98  # reference/training.md


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_decoupled_decay_changes_neither_loss_nor_batch_norms(optimizer):
    options = STILL | {"optimizer": optimizer, "weight_decay": 10.0, "base_learning_rate": 0.008}
    state = make_state(make_config(**options, lr_schedule="constant"))
    assert run_steps(state, 1) < 4.0  # ln 10 = 2.3; 10 * L2 of the weights would be thousands
    kernel = np.abs(values([state.model.get_layer("stem_conv").kernel]))
    gamma = state.model.get_layer("stem_bn").gamma.numpy()
    fresh = make_state(make_config(**options, lr_schedule="constant"))
    assert np.median(kernel / np.abs(values([fresh.model.get_layer("stem_conv").kernel]))) < 0.995
    assert np.abs(gamma - 1).max() < 0.0011  # one step of Adam at most, and no 1 % of decay


@pytest.mark.slow
def test_the_complete_step_compiles_under_xla():
    """Forward, backward, update, average, stochastic depth and dropout: what a TPU compiles."""
    state = make_state(make_config(**REPLICAS))
    images, labels = next(iter(fixed_data().train(0).batch(8)))
    step = make_replica_step(state)
    before = values(state.model.trainable_variables)
    losses = [float(tf.function(step, jit_compile=True)(images, labels)) for _ in range(2)]
    assert state.step == 2 and np.isfinite(losses).all()
    assert np.abs(values(state.model.trainable_variables) - before).max() > 0


def test_recipes_are_the_published_numbers():
    """MosaicML's card: 0.08 at 4096; NVIDIA's B0: 0.005 x batch / 128."""
    mosaicml, nvidia = make_config(recipe="mosaicml"), make_config(recipe="nvidia")
    assert mosaicml.base_learning_rate * 4096 / 256 == pytest.approx(0.08)
    assert nvidia.base_learning_rate / 256 == pytest.approx(0.005 / 128)
    assert (mosaicml.train_epochs, nvidia.train_epochs) == (400, 500)
    assert (mosaicml.lr_warmup_epochs, nvidia.lr_warmup_epochs) == (16, 5)
    assert all(make_config(recipe=name, weights="b0.pth").recipe == name for name in RECIPES)


@contextlib.contextmanager
def full_disk(size=20_000):
    """Limits the size of files: a write beyond it fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    folder = tmp_path / "run"
    options = SMALL | {"mode": "train", "checkpoint_steps": 2, "iterations_per_loop": 2, "model_dir": str(folder)}
    assert run_main(**options, train_steps=2).status == 0
    with full_disk():
        finished = run_main(**options, train_steps=4)
    assert finished.status == 1 and "main.py: " in finished.err.strip().splitlines()[-1]
    assert RunFolder(folder).latest_checkpoint().endswith("ckpt-2")
    assert training.run(make_config(**options, train_steps=6))["steps"] == 6


def test_batch_norms_have_the_momentum_and_epsilon_of_the_options():
    state = make_state(make_config(**PLAIN, batch_norm_momentum=0.9, batch_norm_epsilon=1e-5))
    layers = [layer for layer in state.model.layers if isinstance(layer, BatchNormalization)]
    assert {(layer.momentum, layer.epsilon) for layer in layers} == {(0.9, 1e-5)}


def test_given_steps_override_the_epochs_of_a_recipe():
    assert make_config(recipe="nvidia", train_steps=1000).train_epochs is None
    assert make_config(recipe="nvidia").train_epochs == 500
    with pytest.raises(ValueError, match="Give one of them"):
        make_config(train_steps=3, train_epochs=1.0)


def test_fine_tuning_without_weights_is_an_error():
    with pytest.raises(ValueError, match="needs `weights`"):
        make_config(recipe="finetune")
    assert make_config(recipe="finetune", weights="b0.safetensors").train_steps == 10_000


def test_gradients_that_are_never_finite_stop_the_run(tmp_path):
    config = make_config(**PLAIN, precision="float16", model_dir=str(tmp_path), checkpoint_steps=1)
    state, data = make_state(config), fixed_data()
    spoiled = data._replace(train=lambda *start: data.train(*start).map(lambda image, label: (image * 1e4, label)))
    state.optimizer.dynamic_scale.assign(0.5)
    with pytest.raises(ValueError, match="(gradients are|loss is|network returns)"):
        Trainer(state, spoiled).train(lambda: False)
    assert state.step == 0 and not list(tmp_path.glob("checkpoints/*"))
