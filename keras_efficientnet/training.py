"""A TrainConfig -> a trained model: strategy, step, loop, checkpoints.

The loop is our own: Keras 3's `fit` breaks on several workers and with several steps a call
(github.com/keras-team/keras/issues/20585). Model and optimizer are plain Keras.
"""

import dataclasses
import functools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet import evaluation, export
from keras_efficientnet.architectures import Variant, find_variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.datasets import Data, make_datasets
from keras_efficientnet.history import History, plot, write_json
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model
from keras_efficientnet.optimizers import average_decay, make_learning_rate, make_optimizer

EXPORT_IMAGES = 2_000  # validation images, at most, that the exported files are measured on

# What a checkpoint fits: it can be evaluated only with the same network, and a run goes on only with the same of both.
NETWORK = ("model_name", "input_image_size", "num_label_classes", "width_coefficient", "depth_coefficient")
TRAINING = ("data_dir", "num_train_images", "train_batch_size", "optimizer", "dropout_rate", "survival_prob", "seed")


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


def make_variant(config: TrainConfig) -> Variant:
    """The row of the network, with what the options change. Raises ValueError where there is no such network."""
    changes = {
        "width": config.width_coefficient,
        "depth": config.depth_coefficient,
        "resolution": config.input_image_size,
        "dropout": config.dropout_rate,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return find_variant(config.model_name)._replace(**given)


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """The devices to train on: a TPU by name, else several GPUs or logical CPUs, else what TensorFlow takes itself.

    Raises:
        ValueError: there is no such TPU, there are too few devices, or a batch does not divide by their number.
    """
    if config.tpu is not None:
        strategy = _make_tpu_strategy(config.tpu)
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        wanted = config.num_replicas or (len(devices) if devices[0].device_type == "GPU" else 1)
        if wanted > len(devices):
            raise ValueError(f"`num_replicas` is {wanted}, but there are {len(devices)} {devices[0].device_type}s.")
        names = tuple(device.name for device in devices[:wanted])
        strategy = _make_mirrored_strategy(names) if wanted > 1 else tf.distribute.get_strategy()
    for name in ("train_batch_size", "eval_batch_size"):
        if getattr(config, name) % strategy.num_replicas_in_sync:
            raise ValueError(
                f"`{name}` must be a multiple of the {strategy.num_replicas_in_sync} replicas. "
                f"Received: {name}={getattr(config, name)}"
            )
    return strategy


@functools.cache
def _make_mirrored_strategy(names):
    """One for the same devices in a process: the sums of a second one would be taken for those of the first."""
    return tf.distribute.MirroredStrategy(names)


def _make_tpu_strategy(tpu):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
    except (ValueError, tf.errors.OpError, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:150]
        raise ValueError(f"There is no TPU {tpu!r}: {reason}. Check `tpu`, or leave it out for GPUs or CPU.") from error
    return tf.distribute.TPUStrategy(resolver)


class Run:
    """What a checkpoint holds: the model, its average, the optimizer, the seeds, the seconds of training.

    Args:
        config: the options.
        variant: the network.
        train_images: images an epoch.
        strategy: whose scope it is made in.
    """

    def __init__(self, config: TrainConfig, variant: Variant, train_images: int, strategy: tf.distribute.Strategy):
        self.config, self.strategy = config, strategy
        self.steps_per_epoch = max(train_images, 1) / config.train_batch_size
        arguments: dict[str, Any] = {"classes": config.num_label_classes, "drop_path_rate": 1 - config.survival_prob}
        self.variant = variant
        self.model = make_model(variant, classifier_activation=None, **arguments)
        self.averaged = config.moving_average_decay > 0
        self.average = make_model(variant, classifier_activation=None, **arguments) if self.averaged else self.model
        self.average.set_weights(self.model.get_weights())
        if strategy.num_replicas_in_sync > 1:
            _synchronize_batch_norms(self.model)
        self.learning_rate = make_learning_rate(config, self.steps_per_epoch)
        self.optimizer = make_optimizer(config, self.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        # The loop reduces the gradients itself, so that they can be clipped and checked; Keras must not do it again.
        self.optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
        self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._fork_seeds()
        self._checkpoint = self._make_checkpoint()
        self._manager: Any = None  # where it is saved: `restore` knows the folder

    @property
    def step(self) -> int:
        return int(self.optimizer.iterations.numpy())

    def progress(self) -> dict[str, float]:
        """Seconds of training and steps, over all starts of the run."""
        return {"seconds": round(float(self.seconds.numpy()), 1), "steps": self.step}

    def _make_checkpoint(self):
        parts = {"model": self.model.weights, "optimizer": self.optimizer.variables}
        if self.averaged:
            parts["average"] = self.average.weights
        tables = {name: {v.path: v.value for v in variables} for name, variables in parts.items()}
        tables["seeds"] = {layer.name: layer.seed_generator.state.value for layer in self._random_layers()}
        return tf.train.Checkpoint(
            **{name: tf.train.Checkpoint(**table) for name, table in tables.items()}, seconds=self.seconds
        )

    def _random_layers(self):
        return [layer for layer in self.model.layers if hasattr(layer, "seed_generator")]

    def _fork_seeds(self):
        """Gives each replica its own dropout; a variable made under a strategy starts the same on all of them."""

        def fork():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for layer in self._random_layers():
                state = layer.seed_generator.state.value
                state.assign_add(tf.cast(replica, state.dtype) * tf.constant([0x9E3779B9, 0], state.dtype))

        self.strategy.run(tf.function(fork))

    def restore(self, folder: Path) -> int:
        """Takes the last checkpoint of a folder, if there is one, and returns its step.

        Raises:
            ValueError: the checkpoint is of another network.
        """
        checkpoints = folder / "checkpoints"
        for leftover in checkpoints.glob("*_temp*") if self.config.mode != "eval" else ():  # of a crash in mid-write
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(checkpoints), self.config.keep_checkpoints)
        if self._manager.latest_checkpoint:
            _check_config(self.config, folder)
            restored = self._checkpoint.restore(self._manager.latest_checkpoint)
            if self.config.mode == "eval":
                restored.expect_partial()  # another dropout has other seeds
            else:
                restored.assert_consumed()
            self._fork_seeds()
        return self.step

    def save(self) -> None:
        """Writes a checkpoint, whole or not at all, and the options it fits; not of a network that has diverged.

        Raises:
            ValueError: the network gives values that are not finite.
        """
        blank = tf.zeros((1, self.variant.resolution, self.variant.resolution, 3))
        for model in (self.model, self.average):
            if not np.isfinite(model(blank, training=False)).all():
                raise ValueError(_diverged("network gives values that are not finite", self.step))
        write_json(Path(self._manager.directory).parent / "config.json", dataclasses.asdict(self.config))
        self._manager.save(checkpoint_number=self.step)

    def exportable(self) -> keras.Model:
        """The averaged network with probabilities, free of any strategy."""
        model = make_model(
            self.variant,
            classes=self.config.num_label_classes,
            drop_path_rate=1 - self.config.survival_prob,
            name=self.config.model_name.replace("-", ""),
        )
        model.set_weights(self.average.get_weights())
        return model


def _synchronize_batch_norms(model):
    """Makes each batch norm look at the images of all replicas: their number then changes no result."""
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.synchronized = True


def _check_config(config, folder):
    old, new = json.loads((folder / "config.json").read_text("utf-8")), dataclasses.asdict(config)
    for options in (old, new):
        options["averaging"] = options["moving_average_decay"] > 0
    fixed = (*NETWORK, "averaging") if config.mode == "eval" else (*NETWORK, "averaging", *TRAINING)
    differing = [name for name in fixed if old.get(name) != new[name]]
    if differing:
        was = ", ".join(f"{name}={old.get(name)}" for name in differing)
        now = ", ".join(f"{name}={new[name]}" for name in differing)
        raise ValueError(f"{folder} holds a run with {was}; this one has {now}. Choose another `model_dir`.")


def decayed_variables(model: keras.Model) -> list[keras.Variable]:
    """What weight decay acts on: every trainable variable but those of batch norms, biases included."""
    layers = [layer for layer in model.layers if not isinstance(layer, BatchNormalization)]
    return [variable for layer in layers for variable in layer.trainable_variables]


def make_steps(strategy: tf.distribute.Strategy, training: Run):
    """A function (iterator, count) -> mean loss that takes `count` training steps in one call of the device.

    Loss and update are those of the official code: smoothed cross-entropy and L2 on everything but batch norms; the
    averaged weights follow every variable, the statistics of the batch norms included.
    """
    config, model, optimizer = training.config, training.model, training.optimizer
    trainable = model.trainable_variables
    decayed = decayed_variables(model)
    shadows = list(zip(training.average.weights, model.weights, strict=True)) if training.averaged else []
    smoothing, classes = config.label_smoothing, config.num_label_classes

    def loss_of(images, labels):
        logits = model(images, training=True)
        targets = tf.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
        cross_entropy = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        squares = tf.add_n([tf.nn.l2_loss(v.value) for v in decayed])
        share = config.weight_decay / strategy.num_replicas_in_sync
        return cross_entropy / config.train_batch_size + share * squares

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(images, labels)
        gradients = tape.gradient(loss, [v.value for v in trainable])
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
        optimizer.apply(gradients, trainable)
        rate = 1.0 - average_decay(config.moving_average_decay, optimizer.iterations)
        for shadow, variable in shadows:
            shadow.value.assign_sub(rate * (shadow.value - variable.value))
        return loss

    @tf.function
    def take_steps(iterator, count):
        total = tf.constant(0.0)
        for _ in tf.range(count):
            total += strategy.reduce("sum", strategy.run(replica_step, args=next(iterator)), axis=None)
        return total / tf.cast(count, tf.float32)

    return take_steps


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

    def pipeline(context):
        if context and context.num_input_pipelines > 1:
            raise ValueError("Training on several hosts is not there yet. Take a TPU or machine with one host.")
        examples = data.train(step * config.train_batch_size)
        return examples.batch(replica_batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(pipeline)


def _steps_to_stop(config, step):
    """The steps until the next evaluation, checkpoint or end, and at most those of one call."""
    stops = (config.steps_per_eval, config.checkpoint_steps)
    return min(config.iterations_per_loop, config.train_steps - step, *(every - step % every for every in stops))


def _report(training, history, bar, loss, images_per_second):
    step = training.step
    if not tf.math.is_finite(loss):
        raise ValueError(_diverged(f"loss is {loss}", step))
    values = {
        "loss": loss,
        "learning_rate": float(training.learning_rate(step)),
        "epoch": step / training.steps_per_epoch,
        "images_per_second": images_per_second,
    }
    history.write("train", step, values)
    bar.set_postfix(step=step, epoch=f"{values['epoch']:.1f}", loss=f"{loss:.3f}", lr=f"{values['learning_rate']:.2g}")


def _diverged(what, step):
    return (
        f"The {what} at step {step}. The checkpoints are of before. Look at the data, and start again with a lower "
        "`base_learning_rate`; in another `model_dir` if it goes wrong again."
    )


def _pause(config, training, data, history, evaluate):
    """Evaluates and writes a checkpoint where it is time; the last evaluation is the caller's."""
    step, last = training.step, training.step == config.train_steps
    if step % config.checkpoint_steps == 0 or last:
        training.save()
    if config.mode == "train_and_eval" and step % config.steps_per_eval == 0 and not last:
        scores = evaluate(data.valid, data.valid_images, config.eval_batch_size)
        history.write("validation", step, scores._asdict())


def export_all(model: keras.Model, data: Data, folder: Path) -> dict[str, dict[str, float]]:
    """Writes `model.keras`, `saved_model/` and `model.tflite`, and measures the files on the validation images.

    Returns:
        For each its bytes; for the exported files also scores, and the share of images on which they choose as the
        model does.
    """
    keras_file, saved_model, tflite = folder / "model.keras", folder / "saved_model", folder / "model.tflite"
    temporary = folder / ".model.keras"
    model.save(temporary)
    os.replace(temporary, keras_file)
    export.to_saved_model(model, saved_model, labels=data.class_names, overwrite=True)
    export.to_tflite(model, tflite, overwrite=True)
    images = min(data.valid_images, EXPORT_IMAGES)
    _, expected = evaluation.evaluate_function(lambda pixels: model(pixels, training=False), data.valid, images)
    rows: dict[str, dict[str, float]] = {"model": {"bytes": export.count_bytes(keras_file)}}
    for name, path, load in (
        ("saved_model", saved_model, export.load_saved_model),
        ("tflite", tflite, export.load_tflite),
    ):
        scores, choices = evaluation.evaluate_function(load(path), data.valid, images)
        rows[name] = scores._asdict() | {
            "agreement": float((choices == expected).mean()),
            "bytes": export.count_bytes(path),
        }
    return rows
