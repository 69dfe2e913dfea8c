"""Steps against the official `model_fn`, strategies against one device, a killed run against an uninterrupted one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_efficientnet import training
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import VARIANTS, make_model
from keras_efficientnet.optimizers import make_learning_rate, make_optimizer
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training import loop
from keras_efficientnet.training.history import read
from keras_efficientnet.training.steps import decayed_variables

GOLDEN = Path(__file__).parent / "golden"
OFFICIAL = json.loads((GOLDEN / "training_steps.json").read_text())["runs"]
DECAYED = json.loads((GOLDEN / "training.json").read_text())["decayed"]
TINY = {"width_coefficient": 0.25, "depth_coefficient": 0.4, "input_image_size": 32}
SMALL = TINY | {"train_batch_size": 16, "train_steps": 20, "iterations_per_loop": 3, "eval_batch_size": 100}
NAMES = {"stem/conv2d": "stem_conv", "stem/tpu_batch_normalization": "stem_bn", "head/dense": "predictions"}


def network_of_the_oracle(row):
    """The network that golden/training_steps.json describes, with the variables of a row."""
    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Conv2D(4, 1, use_bias=False, name="stem_conv")(inputs)
    x = BatchNormalization(momentum=0.99, epsilon=1e-3, name="stem_bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("swish")(x))
    model = keras.Model(inputs, keras.layers.Dense(5, name="predictions")(x))
    for variable in model.weights:
        variable.assign(np.reshape(row[official_name(variable)], variable.shape))
    return model


def official_name(variable, slot=""):
    layer, leaf = variable.path.split("/")
    scope = next(theirs for theirs, ours in NAMES.items() if ours == layer)
    return f"efficientnet-b0/{scope}/{leaf}{slot}"


@pytest.mark.parametrize("run", OFFICIAL, ids=["official_recipe", "other_options"])
def test_steps_are_those_of_the_official_model_fn(run):
    options = dict(flag.removeprefix("--").split("=") for flag in run["flags"])
    options = {key: value if key == "lr_schedule" else float(value) for key, value in options.items()}
    if "train_steps" in options:
        options["train_steps"] = int(options["train_steps"])
    config = make_config(recipe="official", num_label_classes=5, **options)
    first = run["rows"][0]
    learning_rate = make_learning_rate(config, run["steps_per_epoch"])
    state = SimpleNamespace(
        config=config,
        model=network_of_the_oracle(first),
        average=network_of_the_oracle(first),
        averaged=True,
        optimizer=make_optimizer(config, learning_rate),
        taken=tf.Variable(0, dtype=tf.int64),
    )
    config_batch = len(run["images"])
    state.config = SimpleNamespace(**{**vars(config), "train_batch_size": config_batch})
    pixels = np.array(run["images"], "float32")
    images = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    batch = (images.astype("float32"), np.argmax(run["labels"], axis=1).astype("int32"))
    take_steps = loop.make_steps(tf.distribute.get_strategy(), state)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    done = 0
    for row in run["rows"][1:]:
        take_steps(batches, tf.constant(row["global_step"] - done))
        done = row["global_step"]
        for model, slot in ((state.model, ""), (state.average, "/ExponentialMovingAverage")):
            for variable in model.weights:
                expected = np.reshape(row[official_name(variable, slot)], variable.shape)
                np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-4, atol=2e-5, err_msg=variable.path)


def test_reported_loss_is_the_official_one():
    run = OFFICIAL[1]
    assert run["rows"][0]["loss_at_these_weights"] > 0
    config = make_config(recipe="official", num_label_classes=5, weight_decay=0.01, label_smoothing=0.0)
    state = SimpleNamespace(
        config=SimpleNamespace(**{**vars(config), "train_batch_size": 6}),
        model=network_of_the_oracle(run["rows"][-1]),
        averaged=False,
        optimizer=keras.optimizers.SGD(0.0),
        taken=tf.Variable(0, dtype=tf.int64),
    )
    images = (np.array(run["images"], "float32") - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    batch = (images.astype("float32"), np.argmax(run["labels"], axis=1).astype("int32"))
    take_steps = loop.make_steps(tf.distribute.get_strategy(), state)
    loss = float(take_steps(iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1)))
    assert loss == pytest.approx(run["rows"][-1]["loss_at_these_weights"], rel=1e-5)


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b3"])
def test_decayed_and_averaged_variables_are_the_official_ones(name):
    model = make_model(VARIANTS[name], input_shape=(32, 32, 3))
    decayed = decayed_variables(model)
    assert len(decayed) == DECAYED[name]["decayed_count"]
    assert sum(int(np.prod(v.shape)) for v in decayed) == DECAYED[name]["decayed_params"]
    assert len(model.weights) == DECAYED[name]["average_count"]


def run_main(folder, *flags):
    options = [f"--{key}={value}" for key, value in (SMALL | {"export": "false"}).items()]
    command = [sys.executable, str(Path(__file__).parent.parent / "main.py"), *options]
    return subprocess.Popen([*command, f"--model_dir={folder}", *flags], stderr=subprocess.DEVNULL)


def checkpoint_values(folder):
    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if "/" in name and not name.startswith("seconds")]
    return Path(path).name, {name: reader.get_tensor(name) for name in names}


def test_killed_run_ends_where_the_uninterrupted_one_ends(tmp_path):
    flags = ("--checkpoint_steps=6", "--mode=train")
    assert run_main(tmp_path / "whole", *flags).wait() == 0
    killed = run_main(tmp_path / "killed", *flags)
    while not any((tmp_path / "killed/checkpoints").glob("ckpt-12.index")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (tmp_path / "killed/checkpoints/ckpt-18_temp").mkdir(exist_ok=True)  # what a crash in mid-write leaves
    assert run_main(tmp_path / "killed", *flags).wait() == 0
    (name, whole), (again, resumed) = checkpoint_values(tmp_path / "whole"), checkpoint_values(tmp_path / "killed")
    assert name == again == "ckpt-20"
    assert set(whole) == set(resumed)
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value, err_msg=key)
    assert not any((tmp_path / "killed/checkpoints").glob("*_temp*"))
    rows = [read(tmp_path / part / "log.jsonl") for part in ("whole", "killed")]
    assert sorted(row["step"] for row in rows[1]) == sorted({row["step"] for row in rows[1]})
    assert rows[0][-1]["loss"] == rows[1][-1]["loss"]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    """Also while a checkpoint is written, which is all the time: at every second step. Some ten minutes."""
    flags = ("--mode=train", "--checkpoint_steps=2", "--iterations_per_loop=2", "--train_steps=2000")
    random = np.random.RandomState(0)
    for _ in range(20):
        process, before = run_main(tmp_path / "killed", *flags), checkpoints(tmp_path / "killed")
        while checkpoints(tmp_path / "killed") == before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    for run in ("killed", "whole"):
        assert run_main(tmp_path / run, *flags).wait() == 0
    (name, whole), (again, resumed) = checkpoint_values(tmp_path / "whole"), checkpoint_values(tmp_path / "killed")
    assert name == again == "ckpt-2000"
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value, err_msg=key)
    names = [{path.name for path in (tmp_path / run).rglob("*")} for run in ("killed", "whole")]
    assert {name for name in names[0] ^ names[1] if "tfevents" not in name} == set()


def checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("*.index"))


def test_a_finished_run_can_be_evaluated_and_another_network_is_refused(tmp_path):
    config = make_config(model_dir=str(tmp_path), export=False, **SMALL)
    trained = training.run(config)
    again = training.run(make_config(model_dir=str(tmp_path), mode="eval", **SMALL))
    assert again["model"] == trained["model"] and again["steps"] == 20
    assert again["model"]["images"] == 355
    with pytest.raises(ValueError, match="holds a run with width_coefficient=0.25"):
        training.run(make_config(model_dir=str(tmp_path), **SMALL | {"width_coefficient": 0.5}))


def test_dropout_may_differ_in_evaluation_but_not_in_training(tmp_path):
    config = make_config(model_dir=str(tmp_path), mode="train", **SMALL | {"train_steps": 2})
    training.run(config)
    other = SMALL | {"survival_prob": 1.0}
    assert training.run(make_config(model_dir=str(tmp_path), mode="eval", **other))["steps"] == 2
    with pytest.raises(ValueError, match="holds a run with survival_prob=0.8"):
        training.run(make_config(model_dir=str(tmp_path), mode="train", **other))


def test_there_is_nothing_to_evaluate_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        training.run(make_config(model_dir=str(tmp_path), mode="eval", **SMALL))
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_stops_and_saves_nothing_of_it(tmp_path):
    options = SMALL | {
        "base_learning_rate": 1e30,
        "optimizer": "sgd",
        "lr_warmup_epochs": 0.0,
        "lr_schedule": "constant",
    }
    config = make_config(model_dir=str(tmp_path), checkpoint_steps=1, **options)
    with pytest.raises(ValueError, match="The (loss is|network gives values)"):
        training.run(config)
    assert not list(tmp_path.glob("checkpoints/ckpt-*"))  # what has diverged is not saved
    better = options | {"base_learning_rate": 0.001, "train_steps": 3}
    assert training.run(make_config(model_dir=str(tmp_path), mode="train", **better))["steps"] == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_replicas": 9}, "there are 2 CPUs"),
        ({"num_replicas": 2, "train_batch_size": 15}, "multiple of the 2 replicas"),
        ({"tpu": "no-such-tpu"}, "There is no TPU 'no-such-tpu'"),
    ],
)
def test_devices_that_are_not_there_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        loop.make_strategy(make_config(**SMALL | options))
