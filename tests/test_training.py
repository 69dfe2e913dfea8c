"""Training steps equal the official `model_fn`; a killed run that resumes equals an uninterrupted one."""

import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.runs import SMALL, checkpoint_names, checkpoint_values, start_mains

from keras_efficientnet import training
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import VARIANTS, make_model
from keras_efficientnet.optimizers import make_learning_rate, make_optimizer
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training.devices import make_strategy
from keras_efficientnet.training.history import read_rows
from keras_efficientnet.training.steps import decayed_variables, make_steps

pytestmark = pytest.mark.usefixtures("short_network")

GOLDEN = Path(__file__).parent / "golden"
OFFICIAL = json.loads((GOLDEN / "training_steps.json").read_text())["runs"]
DECAYED = json.loads((GOLDEN / "training.json").read_text())["decayed"]
NAMES = {"stem/conv2d": "stem_conv", "stem/tpu_batch_normalization": "stem_bn", "head/dense": "predictions"}


def make_golden_network(row):
    """Returns the network that golden/training_steps.json describes, with the variables of a row."""
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
def test_steps_equal_those_of_the_official_model_fn(run):
    options = dict(flag.removeprefix("--").split("=") for flag in run["flags"])
    options = {key: value if key == "lr_schedule" else float(value) for key, value in options.items()}
    if "train_steps" in options:
        options["train_steps"] = int(options["train_steps"])
    config = make_config(recipe="official", num_label_classes=5, **options)
    first = run["rows"][0]
    learning_rate = make_learning_rate(config, run["steps_per_epoch"])
    state = SimpleNamespace(
        config=config,
        strategy=tf.distribute.get_strategy(),
        model=make_golden_network(first),
        average=make_golden_network(first),
        averaged=True,
        optimizer=make_optimizer(config, learning_rate),
        batches_taken=tf.Variable(0, dtype=tf.int64),
    )
    config_batch = len(run["images"])
    state.config = SimpleNamespace(**{**vars(config), "train_batch_size": config_batch})
    pixels = np.array(run["images"], "float32")
    images = (pixels - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    batch = (images.astype("float32"), np.argmax(run["labels"], axis=1).astype("int32"))
    run_steps = make_steps(state)
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    done = 0
    for row in run["rows"][1:]:
        run_steps(batches, tf.constant(row["global_step"] - done))
        done = row["global_step"]
        for model, slot in ((state.model, ""), (state.average, "/ExponentialMovingAverage")):
            for variable in model.weights:
                expected = np.reshape(row[official_name(variable, slot)], variable.shape)
                np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-4, atol=2e-5, err_msg=variable.path)


def test_reported_loss_equals_the_official_one():
    run = OFFICIAL[1]
    assert run["rows"][0]["loss_at_these_weights"] > 0
    config = make_config(recipe="official", num_label_classes=5, weight_decay=0.01, label_smoothing=0.0)
    state = SimpleNamespace(
        strategy=tf.distribute.get_strategy(),
        config=SimpleNamespace(**{**vars(config), "train_batch_size": 6}),
        model=make_golden_network(run["rows"][-1]),
        averaged=False,
        optimizer=keras.optimizers.SGD(0.0),
        batches_taken=tf.Variable(0, dtype=tf.int64),
    )
    images = (np.array(run["images"], "float32") - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    batch = (images.astype("float32"), np.argmax(run["labels"], axis=1).astype("int32"))
    run_steps = make_steps(state)
    loss = float(run_steps(iter(tf.data.Dataset.from_tensors(batch)), tf.constant(1)))
    assert loss == pytest.approx(run["rows"][-1]["loss_at_these_weights"], rel=1e-5)


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-b3"])
def test_decayed_and_averaged_variables_equal_the_official_ones(name):
    model = make_model(VARIANTS[name], input_shape=(32, 32, 3))
    decayed = decayed_variables(model)
    assert len(decayed) == DECAYED[name]["decayed_count"]
    assert sum(int(np.prod(v.shape)) for v in decayed) == DECAYED[name]["decayed_params"]
    assert len(model.weights) == DECAYED[name]["average_count"]


KILLED = SMALL | {"train_steps": 20, "mode": "train"}


def assert_same_checkpoint(folder, other, name):
    (found, values), (expected, others) = checkpoint_values(folder), checkpoint_values(other)
    assert name == found == expected
    assert set(values) == set(others)
    for key, value in others.items():
        np.testing.assert_array_equal(values[key], value, err_msg=key)


def test_killed_run_resumes_and_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    options = KILLED | {"checkpoint_steps": 6}
    folder, other = tmp_path / "killed", tmp_path / "uninterrupted"
    process = start_mains(tmp_path / "log", [options | {"model_dir": folder}])
    while "ckpt-6.index" not in checkpoint_names(folder):
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    process.kill()
    process.wait()
    (folder / "checkpoints/ckpt-12_temp").mkdir(exist_ok=True)  # a crash while it writes a checkpoint leaves this
    for each in (folder, other):
        training.run(make_config(**options, model_dir=str(each)))
    assert_same_checkpoint(folder, other, "ckpt-20")
    assert not any((folder / "checkpoints").glob("*_temp*"))
    rows, expected = read_rows(folder / "log.jsonl"), read_rows(other / "log.jsonl")
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["loss"] == expected[-1]["loss"]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    """Some kills come while a checkpoint is written: one is written at every second step. Some ten minutes."""
    options = KILLED | {"checkpoint_steps": 2, "iterations_per_loop": 2, "train_steps": 2000}
    folder, other, random = tmp_path / "killed", tmp_path / "uninterrupted", np.random.RandomState(0)
    for _ in range(20):
        process, before = start_mains(tmp_path / "log", [options | {"model_dir": folder}]), checkpoint_names(folder)
        while checkpoint_names(folder) == before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for each in (folder, other):
        process = start_mains(tmp_path / "log", [options | {"model_dir": each}])
        assert process.wait() == 0, (tmp_path / "log").read_text()
    assert_same_checkpoint(folder, other, "ckpt-2000")
    names = [{path.name for path in each.rglob("*")} for each in (folder, other)]
    assert {name for name in names[0] ^ names[1] if "tfevents" not in name} == set()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of 20 steps, and its results."""
    folder = tmp_path_factory.mktemp("training") / "exp [1], *?%é"  # any name will do
    return folder, training.run(make_config(model_dir=str(folder), train_steps=20, **SMALL))


def test_evaluating_a_finished_run_gives_the_scores_of_its_training(trained):
    folder, results = trained
    again = training.run(make_config(model_dir=str(folder), mode="eval"))
    assert again["model"] == results["model"] and again["steps"] == 20
    assert again["model"]["images"] == 355


def test_a_run_that_lost_its_list_of_checkpoints_resumes(trained, tmp_path):
    """As an interrupted copy leaves it; a run that began anew would also rewrite the log."""
    folder = shutil.copytree(trained[0], tmp_path / "run")
    (folder / "checkpoints/checkpoint").unlink()
    log = (folder / "log.jsonl").read_bytes()
    results = training.run(make_config(model_dir=str(folder), train_steps=20, mode="train", **SMALL))
    assert results == {name: trained[1][name] for name in ("seconds", "steps")}
    assert (folder / "log.jsonl").read_bytes() == log


def test_resuming_with_another_network_is_an_error(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match="holds a run with width_coefficient=0.25. Received: width_coefficient=0.5"):
        training.run(make_config(model_dir=str(folder), **SMALL | {"width_coefficient": 0.5}))


def test_dropout_may_differ_in_evaluation_but_not_in_training(trained):
    folder, _ = trained
    other = SMALL | {"survival_prob": 1.0}
    assert training.run(make_config(model_dir=str(folder), mode="eval", **other))["steps"] == 20
    with pytest.raises(ValueError, match="holds a run with survival_prob=0.8"):
        training.run(make_config(model_dir=str(folder), mode="train", **other))


def test_checkpoints_without_the_options_of_their_run_are_an_error(trained, tmp_path):
    folder, _ = trained
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(
        FileNotFoundError, match="config.json is missing: .* Copy config.json again. If it is lost, tra"
    ):
        training.run(make_config(model_dir=str(tmp_path), mode="eval", **SMALL))
    (tmp_path / "config.json").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="config.json is incomplete: .* Copy config.json again. If it is lost, train"):
        training.run(make_config(model_dir=str(tmp_path), mode="train", **SMALL))


def test_checkpoints_of_another_network_than_the_options_say_are_named(trained, tmp_path):
    folder, options = (
        shutil.copytree(trained[0], tmp_path / "run"),
        json.loads((trained[0] / "config.json").read_text()),
    )
    (folder / "config.json").write_text(json.dumps(options | {"width_coefficient": 0.5}))
    with pytest.raises(ValueError, match=r"ckpt-20 does not match .*config.json: .*\(.*\).* Copy both again from the"):
        training.run(make_config(mode="eval", model_dir=str(folder)))


DAMAGES = {
    "removed": None,
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "cut": lambda content: content[: len(content) // 2],
    "changed": lambda content: content[:9] + bytes([content[9] ^ 255]) + content[10:],
    "lengthened": lambda content: content + bytes(4096),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_folder_ends_with_the_same_results_or_a_message_that_names_a_file(trained, tmp_path, damage):
    """Each file that a run has, one at a time. Reports and exports are written again."""
    folder, results = trained
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    for number, name in enumerate(names):
        path = shutil.copytree(folder, tmp_path / str(number)) / name
        path.write_bytes(DAMAGES[damage](path.read_bytes())) if DAMAGES[damage] else path.unlink()
        try:
            again = training.run(make_config(model_dir=str(tmp_path / str(number)), train_steps=20, **SMALL))
        except (ValueError, OSError) as error:
            assert name.parts[0] in str(error) and "copy" in str(error).lower(), (name, error)
        else:
            assert again["model"] == results["model"] and again["steps"] == 20, name
            assert read_rows(tmp_path / str(number) / "log.jsonl")[-1]["step"] == 20, name


def test_evaluation_before_training_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        training.run(make_config(model_dir=str(tmp_path), mode="eval", **SMALL))
    assert not list(tmp_path.iterdir())


def test_a_diverging_run_stops_and_saves_no_checkpoint(tmp_path):
    options = SMALL | {
        "base_learning_rate": 1e30,
        "optimizer": "sgd",
        "lr_warmup_epochs": 0.0,
        "lr_schedule": "constant",
        "train_steps": 20,
    }
    config = make_config(model_dir=str(tmp_path), checkpoint_steps=1, **options)
    with pytest.raises(ValueError, match="The (loss is|network returns values)"):
        training.run(config)
    assert not list(tmp_path.glob("checkpoints/ckpt-*"))
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
def test_missing_devices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(make_config(**SMALL | options))
