"""A TrainConfig -> a trained model: strategy, step, loop, checkpoints.

The loop is our own: Keras 3's `fit` breaks on several workers and with several steps a call
(github.com/keras-team/keras/issues/20585). Model and optimizer are plain Keras.
"""

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet import evaluation
from keras_efficientnet.augmentation.mixing import make_mixing, mix_batches
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.history import History, plot, write_json
from keras_efficientnet.training.devices import make_strategy
from keras_efficientnet.training.products import export_all
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
    """
    keras.utils.set_random_seed(config.seed)
    variant = make_variant(config)
    strategy = make_strategy(config)
    data = make_datasets(config, variant)
    folder = Path(config.directory)
    with strategy.scope():
        training = Run(config, variant, data.train_images, strategy)
    step = training.restore(folder)
    if config.mode == "eval" and not step:
        raise FileNotFoundError(f"There is no checkpoint in {folder} to evaluate. Train first, or check `model_dir`.")
    evaluate = evaluation.make_evaluator(strategy, training.average)
    if config.mode != "eval":
        history = History(folder, step)
        train(config, strategy, training, data, history, evaluate)
        if config.mode == "train":
            return training.progress()
    scores = evaluate(data.valid, data.valid_images, config.eval_batch_size)
    results: dict[str, Any] = {"model": scores._asdict()} | training.progress()
    if config.mode == "train_and_eval":
        history.write("validation", training.step, scores._asdict())
        plot(folder)
        if config.export:
            exported = export_all(training.exportable(), data, folder)
            results |= {name: results.get(name, {}) | row for name, row in exported.items()}
    write_json(folder / ("evaluation.json" if config.mode == "eval" else "results.json"), results)
    return results


def train(config: TrainConfig, strategy, training: Run, data: Data, history: History, evaluate) -> None:
    """Takes the steps that are left, with evaluations and checkpoints between.

    Raises:
        ValueError: the loss is not finite; the last checkpoint is of before.
    """
    take_steps = make_steps(strategy, training)
    batches = iter(_train_batches(config, strategy, training.step, data))
    batch, left = config.train_batch_size, config.train_steps - training.step
    with tqdm(total=left * batch, unit="image", unit_scale=True, desc="training", disable=left <= 0) as bar:
        while training.step < config.train_steps:
            started = time.perf_counter()
            count = _steps_to_stop(config, training.step)
            loss = float(take_steps(batches, tf.constant(count)))
            seconds = time.perf_counter() - started
            training.seconds.assign_add(seconds)
            _report(training, history, bar, loss, count * batch / seconds)
            bar.update(count * batch)
            _pause(config, training, data, history, evaluate)


def _train_batches(config, strategy, step, data):
    replica_batch = config.train_batch_size // strategy.num_replicas_in_sync
    mix = make_mixing(config.mixup_alpha, config.cutmix_alpha, config.num_label_classes)

    def pipeline(context):
        if context and context.num_input_pipelines > 1:
            raise ValueError("Training on several hosts is not there yet. Take a TPU or machine with one host.")
        examples = data.train(step * config.train_batch_size)
        batches = examples.batch(replica_batch, drop_remainder=True)
        seed = tf.random.fold_in(tf.constant([config.seed, 1]), context.input_pipeline_id if context else 0)
        batches = mix_batches(batches, mix, seed, first=step * strategy.num_replicas_in_sync)
        return batches.prefetch(tf.data.AUTOTUNE)

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
    if step % config.checkpoint_steps == 0 or last:
        training.save()
    if config.mode == "train_and_eval" and step % config.steps_per_eval == 0 and not last:
        scores = evaluate(data.valid, data.valid_images, config.eval_batch_size)
        history.write("validation", step, scores._asdict())
