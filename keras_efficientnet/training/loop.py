"""A TrainConfig -> a trained model: strategy, step, loop, checkpoints.

The loop is our own: Keras 3's `fit` breaks on several workers and with several steps a call
(github.com/keras-team/keras/issues/20585). Model and optimizer are plain Keras.
"""

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet.augmentation.mixing import make_mixing, mix_batches
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.datasets.damage import in_words
from keras_efficientnet.evaluation import metrics
from keras_efficientnet.files import write_json
from keras_efficientnet.preprocessing import make_reader
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.artifacts import export_all, write_evaluation, write_labels
from keras_efficientnet.training.devices import check_shared, from_chief, is_chief, make_strategy
from keras_efficientnet.training.eval_mode import evaluate_checkpoints, outcomes_of
from keras_efficientnet.training.history import History, evaluations_since_best, plot
from keras_efficientnet.training.predict_mode import predict as predict  # noqa: PLC0414
from keras_efficientnet.training.preemption import Preempted, watch
from keras_efficientnet.training.preview_mode import preview as preview  # noqa: PLC0414
from keras_efficientnet.training.state import Run, diverged, make_variant
from keras_efficientnet.training.steps import make_steps


def run(config: TrainConfig) -> dict[str, Any]:
    """Trains, evaluates and exports as `config` asks, and writes it all to `config.directory`.

    Returns:
        What `results.json` holds, or `evaluation.json` after mode eval: the scores and bytes of `model` and, where
        exported, of `saved_model` and `tflite`; `seconds` of training; `steps`.

    Raises:
        ValueError: an option, a file of data or a checkpoint does not fit; the message says what to do.
        FileNotFoundError: there are no data, or nothing to evaluate.
        Preempted: the run was asked to end, or lost a host: start it again, and it goes on.
    """
    strategy = make_strategy(config)  # before anything else touches a device
    keras.utils.set_random_seed(config.seed)
    variant = make_variant(config)
    data = make_datasets(config, variant)
    config = _complete(config, data)
    folder = Path(config.directory)
    with strategy.scope():
        training = Run(config, variant, data.train_images, strategy)
    evaluate = metrics.make_evaluator(strategy, training.average)
    if config.mode == "eval":
        return evaluate_checkpoints(config, training, data, evaluate)
    check_shared(strategy, folder)
    step = training.restore(folder)
    history = History(folder, step, writes=is_chief(strategy))
    if is_chief(strategy):
        RunFolder(folder).forget_best_after(step)
    with watch(strategy) as asked_to_end:
        train(config, training, data, history, evaluate, asked_to_end)
        if config.mode == "train":
            return training.progress()
        return finish(config, training, data, history, evaluate)


def finish(config: TrainConfig, training: Run, data: Data, history: History, evaluate) -> dict[str, Any]:
    """Evaluates the network that a trained run is to leave, the last or the best, and exports it."""
    folder, progress = Path(config.directory), training.progress()
    outcomes = _evaluate(config, training, data, history, evaluate)
    _archive(config, training, history)
    best = RunFolder(folder).find_best()
    best_step = from_chief(training.strategy, best["step"] if best else training.step)
    if config.takes_best and best_step != training.step:
        training.take(RunFolder(folder).best_checkpoint())
        outcomes = outcomes_of(config, data, evaluate)
    results: dict[str, Any] = {"model": metrics.score(outcomes)._asdict(), "best": best} | progress
    if config.skip_broken_records:
        results["broken_records"] = data.broken
    if is_chief(training.strategy):
        _leave(config, training, data, outcomes, results)
    return results


def _leave(config, training, data, outcomes, results):
    """Writes what is left of a run; `results` gets the rows of the exported files."""
    folder = Path(config.directory)
    plot(folder)
    write_evaluation(folder, outcomes, data)
    if config.export:
        read = make_reader(config, training.variant)
        for name, row in export_all(training.exportable(), data, folder, read).items():
            results[name] = results.get(name, {}) | row
    write_json(folder / "results.json", results)


def _complete(config, data):
    """The options with what the data say: how many classes there are, and steps in `train_epochs`."""
    steps = config.train_steps
    if config.train_epochs is not None and data.train_images:
        steps = math.ceil(config.train_epochs * data.train_images / config.train_batch_size)
    images = data.train_images or config.num_train_images
    if data.train_images and config.train_batch_size > data.train_images:
        logging.warning(
            f"A batch of {config.train_batch_size} images is more than the {data.train_images} there are to train on: "
            f"{steps} steps are {steps * config.train_batch_size / data.train_images:.0f} epochs. Give "
            "`train_batch_size` and `train_epochs`."
        )
    return dataclasses.replace(config, num_label_classes=data.classes, num_train_images=images, train_steps=steps)


def train(config: TrainConfig, training: Run, data: Data, history: History, evaluate, asked_to_end) -> None:
    """Takes the steps that are left, with evaluations and checkpoints between, until `asked_to_end()` says so.

    Raises:
        Preempted: it has said so.
        ValueError: an example is broken, or the loss is not finite; the last checkpoint is of before.
    """
    strategy = training.strategy
    take_steps = make_steps(strategy, training)
    batches = iter(_train_batches(config, strategy, int(training.taken.numpy()), data))
    _archive(config, training, history)  # of a kill between evaluation and archive
    batch, steps = config.train_batch_size, config.train_steps
    bar = tqdm(
        total=steps * batch,
        initial=training.step * batch,
        unit="image",
        unit_scale=True,
        desc="training",
        disable=training.step >= steps or not is_chief(strategy),
    )
    with bar:
        while training.step < config.train_steps and not _stops_early(config, history):
            started, before = time.perf_counter(), training.step
            count = _steps_to_stop(config, training.step)
            with in_words(lambda: data.explain_train(int(training.taken.numpy()) * batch)):
                loss = float(take_steps(batches, tf.constant(count)))
            seconds = time.perf_counter() - started
            training.seconds.assign_add(seconds)
            _report(training, history, bar, loss, count * batch / seconds)
            bar.update(count * batch)
            if training.step > before:
                _pause(config, training, data, history, evaluate)
            training.check_scale()
            if training.step < config.train_steps and asked_to_end():
                training.save()
                raise Preempted(f"Asked to end at step {training.step}, which is saved.")


def _train_batches(config, strategy, taken, data):
    """The batches after the first `taken`; each holds the same images, whatever the number of hosts and replicas.

    Mixup and CutMix mix within what one replica takes at a time, so there the number of them makes a difference.
    """
    parts = strategy.num_replicas_in_sync * config.accumulate_steps
    mix = make_mixing(config.mixup_alpha, config.cutmix_alpha, config.num_label_classes)

    def pipeline(context):
        host, hosts = (context.input_pipeline_id, context.num_input_pipelines) if context else (0, 1)
        examples = data.train(taken * config.train_batch_size, host, hosts)
        batches = examples.batch(config.train_batch_size // parts, drop_remainder=True)
        seed = tf.random.fold_in(tf.constant([config.seed, 1]), host)
        return mix_batches(batches, mix, seed, first=taken * parts // hosts).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(pipeline)


def _steps_to_stop(config, step):
    """The steps until the next evaluation, checkpoint or end, and at most those of one call."""
    stops = (config.steps_per_eval, config.checkpoint_steps)
    return min(config.iterations_per_loop, config.train_steps - step, *(every - step % every for every in stops))


def _report(training, history, bar, loss, images_per_second):
    step = training.step
    if not tf.math.is_finite(loss):
        raise ValueError(diverged(f"loss is {loss}", step))
    values = {
        "loss": loss,
        "learning_rate": float(training.learning_rate(step)),
        "epoch": step / training.steps_per_epoch,
        "images_per_second": images_per_second,
    }
    history.write("train", step, values)
    bar.set_postfix(step=step, epoch=f"{values['epoch']:.1f}", loss=f"{loss:.3f}", lr=f"{values['learning_rate']:.2g}")


def _pause(config, training, data, history, evaluate):
    """Evaluates and writes a checkpoint where it is time; the last evaluation is the caller's."""
    step, last = training.step, training.step == config.train_steps
    evaluates = config.mode == "train_and_eval" and step % config.steps_per_eval == 0 and not last
    if evaluates:
        _evaluate(config, training, data, history, evaluate)
    if step % config.checkpoint_steps == 0 or last or evaluates:
        if is_chief(training.strategy):
            write_labels(RunFolder(config.directory), data)
        training.save()
        _archive(config, training, history)


def _evaluate(config, training, data, history, evaluate):
    """Before the checkpoint is written: a kill between them repeats the evaluation and loses none."""
    training.agree()
    outcomes = outcomes_of(config, data, evaluate)
    history.write("validation", training.step, metrics.score(outcomes)._asdict())
    return outcomes


def _archive(config, training, history):
    """Keeps the checkpoint of this step if it has been evaluated, and is the best."""
    if not is_chief(training.strategy):
        return
    for row in history.rows("validation")[-1:]:
        if row["step"] == training.step:
            scores = {name: value for name, value in row.items() if name not in ("part", "step")}
            RunFolder(config.directory).keep_best(training.step, scores, training.write)


def _stops_early(config, history):
    patience = config.early_stopping_evaluations
    return patience is not None and evaluations_since_best(history.rows("validation")) >= patience
