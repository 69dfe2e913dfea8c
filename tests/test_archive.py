"""The best checkpoint is kept; runs stop early; evaluations wait for the checkpoints of another process."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.runs import SMALL, start_mains

from keras_efficientnet import training
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.history import evaluations_since_best, read_rows
from keras_efficientnet.training.state import TrainState, make_variant

pytestmark = pytest.mark.usefixtures("short_network")

ROOT = Path(__file__).parent.parent
# top-1 stays constant: without a learning rate, the few steps hardly change the statistics of the batch norms
STILL = {"base_learning_rate": 0.0, "batch_norm_momentum": 0.9999}
NEVER_BETTER = SMALL | STILL | {"steps_per_eval": 2, "checkpoint_steps": 5, "train_steps": 30}


def keep(folder, step, top_1_accuracy):
    """Keeps a checkpoint that contains its step."""
    write = tf.train.Checkpoint(value=tf.Variable(step)).write
    RunFolder(folder).keep_best(step, {"top_1_accuracy": top_1_accuracy, "images": 355}, write)


def kept_value(folder):
    return tf.train.load_checkpoint(RunFolder(folder).best_checkpoint()).get_tensor("value/.ATTRIBUTES/VARIABLE_VALUE")


def test_only_a_better_checkpoint_replaces_the_best(tmp_path):
    steps = []
    for step, accuracy in [(10, 0.5), (20, 0.4), (30, 0.6), (40, 0.6), (50, 0.59), (60, 0.7)]:
        keep(tmp_path, step, accuracy)
        steps.append((RunFolder(tmp_path).find_best()["step"], kept_value(tmp_path)))
    assert steps == [(10, 10), (10, 10), (30, 30), (30, 30), (30, 30), (60, 60)]
    assert RunFolder(tmp_path).find_best() == {"step": 60, "top_1_accuracy": 0.7, "images": 355}
    names = {path.name for path in (tmp_path / "archive").iterdir()}
    assert names == {"best_eval.json", "ckpt-60.index", "ckpt-60.data-00000-of-00001"}


def test_a_kill_at_any_time_leaves_a_complete_best_checkpoint(tmp_path):
    code = """
import sys, itertools, tensorflow as tf
from keras_efficientnet.runs import RunFolder
value = tf.Variable(tf.zeros(100_000, tf.int32))
checkpoint = tf.train.Checkpoint(value=value)
for step in itertools.count(1):
    value.assign(tf.fill([100_000], step))
    RunFolder(sys.argv[1]).keep_best(step, {"top_1_accuracy": step / 1e6}, checkpoint.write)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "archive/best_eval.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    for wait in (0.3, 0.07, 0.013, 0.11, 0.0):  # a stopped process leaves the files as a kill would
        process.send_signal(signal.SIGSTOP)
        step = RunFolder(tmp_path).find_best()["step"]
        np.testing.assert_array_equal(kept_value(tmp_path), step)
        process.send_signal(signal.SIGCONT)
        time.sleep(wait)
    process.kill()
    process.wait()
    assert RunFolder(tmp_path).find_best()["step"] > 1
    keep(tmp_path, 10**6, 2.0)
    assert len(list((tmp_path / "archive").iterdir())) == 3  # the leftovers of the kill are removed


def test_a_best_checkpoint_of_an_earlier_run_is_forgotten(tmp_path):
    keep(tmp_path, 10, 0.9)
    RunFolder(tmp_path).forget_best_after(10)
    assert RunFolder(tmp_path).find_best()["step"] == 10
    RunFolder(tmp_path).forget_best_after(9)
    assert RunFolder(tmp_path).find_best() is None
    with pytest.raises(FileNotFoundError, match="no best checkpoint"):
        RunFolder(tmp_path).best_checkpoint()


@pytest.mark.parametrize(
    ("accuracies", "expected"), [([], 0), ([0.5], 0), ([0.5, 0.4], 1), ([0.5, 0.6, 0.6, 0.6], 2), ([0.5, 0.4, 0.6], 0)]
)
def test_evaluations_are_counted_since_the_first_best(accuracies, expected):
    assert evaluations_since_best([{"top_1_accuracy": value} for value in accuracies]) == expected


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped early, after three evaluations without a better top-1."""
    folder = tmp_path_factory.mktemp("archive") / "run"
    options = NEVER_BETTER | {"model_dir": str(folder), "early_stopping_evaluations": 3}
    return folder, options, training.run(make_config(**options))


def validations(folder, name="log.jsonl"):
    return [row for row in read_rows(folder / name) if row["part"] == "validation"]


def test_a_run_stops_if_top_1_does_not_improve(stopped):
    folder, _, results = stopped
    assert [row["step"] for row in validations(folder)] == [2, 4, 6, 8]
    assert results["steps"] == 8


def test_a_stopped_run_reports_its_best_checkpoint(stopped):
    folder, _, results = stopped
    first, *_, last = validations(folder)
    assert results["best"]["step"] == 2 == RunFolder(folder).find_best()["step"]
    assert results["model"]["loss"] == pytest.approx(first["loss"], rel=1e-6)
    assert results["model"]["loss"] != pytest.approx(last["loss"], rel=1e-6)


def test_a_stopped_run_resumes_only_with_more_patience(stopped):
    folder, options, results = stopped
    assert training.run(make_config(**options)) == results
    assert len(validations(folder)) == 4
    patient = training.run(make_config(**options | {"early_stopping_evaluations": 4}))
    assert [row["step"] for row in validations(folder)] == [2, 4, 6, 8, 10]
    assert patient["steps"] == 10 and patient["best"] == results["best"]


def test_evaluation_needs_only_the_run_folder(stopped):
    """Options come from config.json, including that the best checkpoint is the one to evaluate."""
    folder, _, results = stopped
    evaluated = training.run(make_config(mode="eval", model_dir=str(folder)))
    assert evaluated["model"] == results["model"] and evaluated["steps"] == 2
    assert json.loads((folder / "evaluation.json").read_text()) == evaluated


def test_given_options_override_those_of_the_run_but_another_network_is_an_error(stopped):
    folder, _, _ = stopped
    config = make_config(mode="eval", model_dir=str(folder), eval_batch_size=50)
    assert (config.eval_batch_size, config.train_batch_size, config.recipe) == (50, 16, "sample")
    with pytest.raises(ValueError, match="holds a run with width_coefficient=0.25"):
        training.run(make_config(mode="eval", model_dir=str(folder), width_coefficient=0.5))


def test_a_resumed_run_archives_what_a_kill_after_the_evaluation_left_out(stopped, tmp_path):
    """The log has the evaluation, and the checkpoint is saved, but the archive lacks it."""
    folder, options, _ = stopped
    folder = shutil.copytree(folder, tmp_path / "run")
    (folder / "archive/best_eval.json").unlink()
    last = validations(folder)[-1]["step"]
    options = options | {"model_dir": str(folder), "train_steps": last + 1, "early_stopping_evaluations": None}
    training.run(make_config(**options))
    assert validations(folder)[-1]["step"] == last + 1
    assert RunFolder(folder).find_best()["step"] == last


def test_a_run_that_lost_its_checkpoints_is_refused_and_nothing_changes(stopped, tmp_path):
    folder, options, _ = stopped
    folder = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    before = content(folder)
    with pytest.raises(ValueError, match="/checkpoints must hold the checkpoints .* Copy checkpoints/"):
        training.run(make_config(**options | {"model_dir": str(folder)}))
    assert content(folder) == before


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_an_evaluation_waits_for_the_checkpoints_of_another_process(tmp_path):
    """It starts before there is a run folder, and ends after the last step."""
    folder, log = tmp_path / "run", tmp_path / "log"
    options = SMALL | {"model_dir": str(folder), "train_steps": 12, "checkpoint_steps": 4, "steps_per_eval": 100}
    evaluator = start_mains(log, [options | {"mode": "eval", "eval_timeout": 120}])
    training.run(make_config(**options, mode="train"))
    assert evaluator.wait(timeout=300) == 0, log.read_text()
    rows = validations(folder, "evaluations.jsonl")
    assert rows[-1]["step"] == 12 and {row["step"] for row in rows} <= {4, 8, 12}
    assert not validations(folder)  # each process has its own log
    assert (folder / "curve.png").exists()
    best = max(rows, key=lambda row: row["top_1_accuracy"])  # max returns the first of equal rows
    assert RunFolder(folder).find_best()["step"] == best["step"]
    once = training.run(make_config(mode="eval", model_dir=str(folder)))
    assert once["steps"] == 12 and once["model"]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    waited = training.run(make_config(mode="eval", model_dir=str(folder), eval_timeout=0.1, train_steps=100))
    assert waited == once  # there was no new checkpoint


def test_a_removed_checkpoint_raises_another_error_than_one_of_another_network(stopped):
    """Evaluation skips a removed checkpoint: training has replaced it by newer ones."""
    folder, _, _ = stopped
    config = make_config(mode="eval", model_dir=str(folder))
    state = TrainState(config, make_variant(config), 1, tf.distribute.get_strategy())
    with pytest.raises(tf.errors.NotFoundError):
        state.load_checkpoint(str(folder / "checkpoints/ckpt-999"))


def test_an_evaluation_without_checkpoints_is_an_error_after_its_timeout(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in .*/run to evaluate"):
        training.run(make_config(mode="eval", model_dir=str(tmp_path / "run"), eval_timeout=0.1, **SMALL))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"use_best": True}, {"early_stopping_evaluations": 2}])
def test_mode_train_has_no_best_checkpoint(options):
    with pytest.raises(ValueError, match="need evaluations. Choose mode=train_and_eval"):
        make_config(mode="train", **options)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", "\0\0", '{"step": "../../x", "top_1_accuracy": 1}', '{"step": 10}', '{"step": true}']
)
def test_a_broken_file_about_the_best_checkpoint_is_named(tmp_path, content):
    keep(tmp_path, 10, 0.9)
    (tmp_path / "archive/best_eval.json").write_text(content)
    for call in (RunFolder(tmp_path).best_checkpoint, lambda: RunFolder(tmp_path).forget_best_after(10)):
        with pytest.raises(
            ValueError, match="best_eval.json is incomplete: .* Copy archive/ again, or remove best_eval"
        ):
            call()
    (tmp_path / "archive/best_eval.json").unlink()  # as the message says
    keep(tmp_path, 20, 0.1)
    assert kept_value(tmp_path) == 20 and len(list((tmp_path / "archive").iterdir())) == 3


@pytest.mark.parametrize("file", ["ckpt-10.index", "ckpt-10.data-00000-of-00001"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_lost_or_damaged_best_checkpoint_is_named(tmp_path, file, content):
    keep(tmp_path, 10, 0.9)
    (tmp_path / "archive" / file).unlink() if content is None else (tmp_path / "archive" / file).write_bytes(content)
    with pytest.raises(
        FileNotFoundError, match="archive/ckpt-10 is missing or damaged. Copy archive/ again, or remove"
    ):
        RunFolder(tmp_path).best_checkpoint()
