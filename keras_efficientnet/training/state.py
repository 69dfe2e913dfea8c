"""What a checkpoint holds: model, average, optimizer, seeds; made, saved and restored."""

import contextlib
import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import Variant, find_variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model
from keras_efficientnet.optimizers import make_learning_rate, make_optimizer
from keras_efficientnet.runs import RunFolder, run_of_checkpoint
from keras_efficientnet.training.devices import is_chief
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import load_weights

# What a checkpoint fits: it can be evaluated only with the same network, and a run goes on only with the same of both.
NETWORK = (
    *("model_name", "input_image_size", "num_label_classes", "width_coefficient", "depth_coefficient"),
    "batch_norm_epsilon",
)
TRAINING = (
    *("dataset", "use_cache", "holdout_shards", "num_train_images", "train_batch_size", "optimizer"),
    *("dropout_rate", "survival_prob", "seed", "weights", "frozen_layers", "precision"),
)
FROZEN = {"backbone": r"(?!predictions$).*", "batch_norm": r".*bn"}  # names for patterns of layer names


def make_variant(config: TrainConfig) -> Variant:
    """The row of the network, with what the options change, and with the pixels that weights given by name want.

    Raises:
        ValueError: there is no such network, or it has no such weights.
    """
    changes = {
        "width": config.width_coefficient,
        "depth": config.depth_coefficient,
        "resolution": config.input_image_size,
        "dropout": config.dropout_rate,
        "epsilon": config.batch_norm_epsilon,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    variant = find_variant(config.model_name)._replace(**given)
    if pretrained.is_name(config.weights):
        return pretrained.find(config.model_name, str(config.weights)).normalised(variant)
    return variant


class Run:
    """What a checkpoint holds: the model, its average, the optimizer, the seeds, the seconds of training.

    Args:
        config: the options.
        variant: the network.
        train_images: images an epoch.
        strategy: whose scope it is made in.
    """

    def __init__(self, config: TrainConfig, variant: Variant, train_images: int, strategy: tf.distribute.Strategy):
        self.config, self.strategy, self.variant = config, strategy, variant
        self.steps_per_epoch = max(train_images, 1) / config.train_batch_size
        self.averaged = config.moving_average_decay > 0
        with _dtype_policy(_precision(config, strategy)):
            self.model = _make_network(config, variant, classifier_activation=None)
            self.average = _make_network(config, variant, classifier_activation=None) if self.averaged else self.model
        self.average.set_weights(self.model.get_weights())
        _freeze(self.model, config.frozen_layers)
        _set_batch_norms(self.model, config, strategy.num_replicas_in_sync)
        self.learning_rate = make_learning_rate(config, self.steps_per_epoch)
        self.optimizer = self._make_optimizer()
        self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.taken = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=first)  # also steps that overflow
        self._fork_seeds()
        self._checkpoint = self._make_checkpoint()
        self._manager: Any = None  # where it is saved: `restore` knows the folder

    def _make_optimizer(self):
        optimizer = make_optimizer(self.config, self.learning_rate)
        if not self.config.decay_batch_norm:
            layers = [layer for layer in self.model.layers if isinstance(layer, BatchNormalization)]
            optimizer.exclude_from_weight_decay([v for layer in layers for v in layer.trainable_variables])
        # The loop reduces the gradients itself, so that they can be clipped and checked; Keras must not do it again.
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
        if _precision(self.config, self.strategy) == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(self.model.trainable_variables)
        return optimizer

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
            **{name: tf.train.Checkpoint(**table) for name, table in tables.items()},
            seconds=self.seconds,
            taken=self.taken,
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
        """Takes the last checkpoint of a folder, else the weights to start from, and returns the step.

        Raises:
            OSError: there are no such weights to start from, or they could not be fetched.
            ValueError: the checkpoint is of another network, or the weights are.
        """
        run = RunFolder(folder)
        if is_chief(self.strategy):
            run.remove_incomplete_checkpoints()
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(run.checkpoints), self.config.keep_checkpoints)
        if self._manager.latest_checkpoint:
            _check_config(self.config, run)
            self._checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
            self._fork_seeds()
        elif self.config.weights:
            weights: Any = self.config.weights
            if pretrained.is_name(weights):
                weights = pretrained.fetch(pretrained.find(self.config.model_name, weights))
            load_weights(self.model, weights, other_classes=True)
            self.average.set_weights(self.model.get_weights())
        return self.step

    def agree(self) -> None:
        """Gives all replicas the mean of their batch norms' statistics, where each has its own."""
        if self.config.batch_norm_sync != "all" and self.strategy.num_replicas_in_sync > 1:
            self.strategy.run(self._average_statistics)

    @functools.cached_property
    def _average_statistics(self):
        statistics = [v.value for model in (self.model, self.average) for v in model.non_trainable_variables]
        statistics = [v for v in statistics if v.dtype == tf.float32]

        @tf.function
        def average():
            flat = tf.concat([tf.reshape(v, [-1]) for v in statistics], axis=0)
            mean = tf.distribute.get_replica_context().all_reduce("mean", flat)
            parts = tf.split(mean, [v.shape.num_elements() for v in statistics])
            for variable, part in zip(statistics, parts, strict=True):
                variable.assign(tf.reshape(part, variable.shape))

        return average

    def check_scale(self) -> None:
        """Raises ValueError where no scale of the loss has given finite gradients."""
        scale = getattr(self.optimizer, "dynamic_scale", None)
        if scale is not None and scale.numpy() < 1:
            raise ValueError(diverged("gradients are not finite, whatever the scale of the loss,", self.step))

    def take(self, path: str) -> None:
        """Takes a checkpoint, in `checkpoints/` or `archive/` of a run, to evaluate it.

        Raises:
            ValueError: the checkpoint is of another network.
            tf.errors.NotFoundError: it is gone.
        """
        _check_config(self.config, run_of_checkpoint(path))
        self._checkpoint.restore(path).expect_partial()  # another dropout has other seeds

    def write(self, path: str) -> None:
        """Writes a checkpoint to a path of its own."""
        self._checkpoint.write(path)

    def save(self) -> None:
        """Writes a checkpoint, whole or not at all, and the options it fits; not of a network that has diverged.

        Raises:
            ValueError: the network gives values that are not finite.
        """
        self.agree()
        blank = tf.zeros((1, self.variant.resolution, self.variant.resolution, 3))
        for model in (self.model, self.average):
            if not np.isfinite(model(blank, training=False)).all():
                raise ValueError(diverged("network gives values that are not finite", self.step))
        if not is_chief(self.strategy):
            return
        RunFolder(Path(self._manager.directory).parent).write_options(dataclasses.asdict(self.config))
        self._manager.save(checkpoint_number=self.step)

    def exportable(self) -> keras.Model:
        """The averaged network with probabilities, free of any strategy."""
        model = _make_classifier(self.config, self.variant)
        model.set_weights(self.average.get_weights())
        return model


def load_classifier(config: TrainConfig, path: str) -> keras.Model:
    """The averaged network of a checkpoint, with probabilities.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    _check_config(config, run_of_checkpoint(path))
    model = _make_classifier(config, make_variant(config))
    table = tf.train.Checkpoint(**{v.path: v.value for v in model.weights})
    part = "average" if config.moving_average_decay > 0 else "model"
    tf.train.Checkpoint(**{part: table}).restore(path).assert_existing_objects_matched().expect_partial()
    return model


def _make_network(config, variant, **arguments):
    return make_model(variant, classes=config.num_label_classes, drop_path_rate=1 - config.survival_prob, **arguments)


def _make_classifier(config, variant):
    return _make_network(config, variant, name=config.model_name.replace("-", ""))


def _precision(config, strategy):
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    name = config.precision or ("bfloat16" if on_tpu else "float32")
    return name if name == "float32" else f"mixed_{name}"


@contextlib.contextmanager
def _dtype_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _freeze(model, layers):
    """Turns training off for the layers whose whole name fits a pattern, or a word of FROZEN."""
    if not layers:
        return
    try:
        pattern = re.compile(FROZEN.get(layers, layers))
    except re.error as error:
        raise ValueError(f"`frozen_layers` is no pattern: {error}. Received: frozen_layers={layers}") from error
    frozen = [layer for layer in model.layers if layer.weights and pattern.fullmatch(layer.name)]
    if not frozen:
        raise ValueError(
            f"`frozen_layers` fits no layer of {model.name}. Received: frozen_layers={layers}. It must be backbone, "
            "batch_norm or a pattern that fits whole names of layers, block1a_.* for example."
        )
    for layer in frozen:
        layer.trainable = False
    if not model.trainable_variables:
        raise ValueError(f"`frozen_layers` leaves nothing to train. Received: frozen_layers={layers}")


def _set_batch_norms(model, config, replicas):
    """Momentum, and whose images they look at: of all replicas, or of groups of a size that the official code chose."""
    group = {"all": replicas, "none": 1, "groups": max(8, replicas // 8) if replicas > 8 else 1}[config.batch_norm_sync]
    if replicas % group:
        raise ValueError(f"batch_norm_sync=groups needs groups of {group} replicas, but there are {replicas}.")
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum, layer.synchronized, layer.group = config.batch_norm_momentum, group > 1, group


def _check_config(config, run):
    old, new = json.loads(run.config.read_text("utf-8")), dataclasses.asdict(config)
    if (old.get("moving_average_decay", 0) > 0) == (new["moving_average_decay"] > 0):  # whether there are averages
        old["moving_average_decay"] = new["moving_average_decay"]
    fixed = (*NETWORK, "moving_average_decay", *(TRAINING if config.mode in ("train", "train_and_eval") else ()))
    differing = [name for name in fixed if old.get(name) != new[name]]
    if differing:
        was = ", ".join(f"{name}={old.get(name)}" for name in differing)
        now = ", ".join(f"{name}={new[name]}" for name in differing)
        raise ValueError(f"{run.path} holds a run with {was}; this one has {now}. Choose another `model_dir`.")


def diverged(what: str, step: int) -> str:
    """The words for a run that has left the numbers."""
    return (
        f"The {what} at step {step}. The checkpoints are of before. Look at the data, and start again with a lower "
        "`base_learning_rate`; in another `model_dir` if it goes wrong again."
    )
