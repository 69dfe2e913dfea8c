"""The state of a training run: model, averaged model, optimizer and seeds; saved in checkpoints and restored."""

import contextlib
import dataclasses
import functools
import logging
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model
from keras_efficientnet.optimizers import make_learning_rate, make_optimizer
from keras_efficientnet.paths import without_wildcards
from keras_efficientnet.recipes import find_variant_of
from keras_efficientnet.runs import RunFolder, run_of_checkpoint
from keras_efficientnet.training.devices import is_chief
from keras_efficientnet.training.history import read_rows
from keras_efficientnet.weights.loading import load_weights, resolve_weights

# Options that must match: NETWORK to evaluate a checkpoint, NETWORK and TRAINING to resume.
NETWORK = (
    "model_name",
    "input_image_size",
    "num_label_classes",
    "width_coefficient",
    "depth_coefficient",
    "batch_norm_epsilon",
)
TRAINING = (
    "dataset",
    "use_cache",
    "holdout_shards",
    "num_train_images",
    "train_batch_size",
    "optimizer",
    "dropout_rate",
    "survival_prob",
    "seed",
    "weights",
    "frozen_layers",
    "precision",
)
FROZEN = {
    "backbone": r"(?!predictions$).*",
    "batch_norm": r".*bn",
}  # `frozen_layers` -> pattern of layer names


def make_variant(config: TrainConfig) -> Variant:
    """Returns the variant of the network with the changes of the options.

    Published weights also set its pixel statistics.

    Raises:
        ValueError: the network is unknown, or has no published weights of the given name.
    """
    variant = find_variant_of(config)
    return resolve_weights(config.weights, model_name=config.model_name, variant=variant).variant or variant


class TrainState:
    """Everything that a checkpoint holds: model, averaged model, optimizer, seeds, and seconds of training.

    Args:
        config: the options of the run.
        variant: the network.
        train_images: images per epoch.
        strategy: the strategy whose scope this is created in.
    """

    def __init__(self, config: TrainConfig, variant: Variant, train_images: int, strategy: tf.distribute.Strategy):
        self.config, self.strategy, self.variant = config, strategy, variant
        self.steps_per_epoch = max(train_images, 1) / config.train_batch_size
        self.averaged = config.moving_average_decay > 0
        with _dtype_policy(_policy_name(config, strategy)):
            self.model = _make_network(config, variant, classifier_activation=None)
            self.average = _make_network(config, variant, classifier_activation=None) if self.averaged else self.model
        self.average.set_weights(self.model.get_weights())
        _freeze_layers(self.model, config.frozen_layers)
        set_batch_norms(self.model, config, strategy.num_replicas_in_sync)
        self.learning_rate = make_learning_rate(config, self.steps_per_epoch)
        self.optimizer = self._make_optimizer()
        self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        # counts skipped steps too, whose gradients overflowed: batches consumed, not updates of the weights
        self.batches_taken = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=first)
        self._fork_seeds()
        self._checkpoint = self._make_checkpoint()
        self._run: Any = None  # the run folder and its checkpoints: set by `restore`
        self._checkpoints: Any = None

    def _make_optimizer(self) -> keras.optimizers.Optimizer:
        optimizer = make_optimizer(self.config, self.learning_rate)
        if not self.config.decay_batch_norm:
            layers = [layer for layer in self.model.layers if isinstance(layer, BatchNormalization)]
            optimizer.exclude_from_weight_decay([v for layer in layers for v in layer.trainable_variables])
        # The training step sums the gradients itself, to clip and check the sum; Keras must not sum them again, and
        # has no public way to say so. If Keras renames this, test_keras_reduces_gradients_in_the_method_we_override
        # fails.
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
        if _policy_name(self.config, self.strategy) == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(self.model.trainable_variables)
        return optimizer

    @property
    def step(self) -> int:
        """The number of training steps done."""
        return int(self.optimizer.iterations.numpy())

    def progress(self) -> dict[str, float]:
        """Returns the seconds of training and the steps, summed over all starts of the run."""
        return {"seconds": round(float(self.seconds.numpy()), 1), "steps": self.step}

    def _make_checkpoint(self) -> tf.train.Checkpoint:
        parts = {"model": self.model.weights, "optimizer": self.optimizer.variables}
        if self.averaged:
            parts["average"] = self.average.weights
        tables = {name: {v.path: v.value for v in variables} for name, variables in parts.items()}
        tables["seeds"] = {layer.name: layer.seed_generator.state.value for layer in self.random_layers()}
        return tf.train.Checkpoint(
            **{name: tf.train.Checkpoint(**table) for name, table in tables.items()},
            seconds=self.seconds,
            taken=self.batches_taken,
        )

    def random_layers(self) -> list[keras.Layer]:
        """Returns the layers with a random seed: dropout and stochastic depth."""
        return [layer for layer in self.model.layers if hasattr(layer, "seed_generator")]

    def _fork_seeds(self) -> None:
        """Gives each replica its own seeds: a variable created under a strategy starts equal on all replicas."""

        def fork():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for layer in self.random_layers():
                state = layer.seed_generator.state.value
                state.assign_add(tf.cast(replica, state.dtype) * tf.constant([0x9E3779B9, 0], state.dtype))

        self.strategy.run(tf.function(fork))

    def restore(self, run: RunFolder) -> int:
        """Restores the latest checkpoint of a run, or else loads the weights to start from; returns the step.

        Raises:
            OSError: the weights to start from do not exist, or could not be downloaded; or TensorFlow cannot read the
                path of the run.
            ValueError: the checkpoint or the weights are of another network, or the checkpoints of the run are lost.
        """
        self._run, self._checkpoints = run, CheckpointFolder(run.checkpoints)
        with without_wildcards(run.checkpoints):
            pass  # raises before the first step if TensorFlow could not read the checkpoints afterwards
        latest = self._checkpoints.recover() if is_chief(self.strategy) else self._checkpoints.latest()
        if latest:
            _check_options(self.config, run)
            with _restoring(latest) as path:
                self._checkpoint.restore(path).assert_consumed()
            self._fork_seeds()
            return self.step
        run.check_untrained(max((row["step"] for row in read_rows(run.log)), default=0))
        if run.is_run():
            logging.warning(f"{run.path} holds a run without checkpoints: it starts again from step 0.")
        if self.config.weights:
            source = resolve_weights(self.config.weights, model_name=self.config.model_name)
            load_weights(self.model, source.fetch() or self.config.weights, other_classes=True)
            self.average.set_weights(self.model.get_weights())
        return self.step

    def load_checkpoint(self, path: str) -> None:
        """Loads a checkpoint in `checkpoints/` or `archive/` of a run to evaluate it.

        Raises:
            ValueError: the checkpoint is of another network.
            tf.errors.NotFoundError: the checkpoint was removed.
        """
        _check_options(self.config, run_of_checkpoint(path))
        with _restoring(path) as plain:
            self._checkpoint.restore(plain).expect_partial()  # with another dropout, the seeds differ

    def write(self, path: str) -> None:
        """Writes a checkpoint to a given path."""
        self._checkpoint.write(path)

    def save(self) -> None:
        """Writes a complete checkpoint or none, and the options of the run. A diverged network is never saved.

        Raises:
            ValueError: the network returns values that are not finite.
        """
        self.synchronize_statistics()
        blank = tf.zeros((1, self.variant.resolution, self.variant.resolution, 3))
        for model in (self.model, self.average):
            if not np.isfinite(model(blank, training=False)).all():
                raise ValueError(divergence_message("network returns values that are not finite", self.step))
        if not is_chief(self.strategy):
            return
        self._run.checkpoints.mkdir(parents=True, exist_ok=True)  # first: see `RunFolder.check_untrained`
        self._run.write_options(dataclasses.asdict(self.config))
        self._checkpoint.save_counter.assign_add(1)  # creates it: TensorFlow expects it in what it restores
        self._checkpoints.save(self.step, self.write, self.config.keep_checkpoints)

    def synchronize_statistics(self) -> None:
        """Replaces the batch normalization statistics of each replica by their mean, if the replicas differ."""
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

    def check_loss_scale(self) -> None:
        """Raises ValueError if the gradients overflowed at every scale of the loss."""
        scale = getattr(self.optimizer, "dynamic_scale", None)
        if scale is not None and scale.numpy() < 1:
            raise ValueError(divergence_message("gradients are not finite at any loss scale", self.step))

    def to_classifier(self) -> keras.Model:
        """Returns the averaged network with probabilities as output, created outside the strategy."""
        model = _make_classifier(self.config, self.variant)
        model.set_weights(self.average.get_weights())
        return model


def load_classifier(config: TrainConfig, path: str) -> keras.Model:
    """Returns the averaged network of a checkpoint, with probabilities as output.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    _check_options(config, run_of_checkpoint(path))
    model = _make_classifier(config, make_variant(config))
    table = tf.train.Checkpoint(**{v.path: v.value for v in model.weights})
    part = "average" if config.moving_average_decay > 0 else "model"
    with _restoring(path) as plain:
        tf.train.Checkpoint(**{part: table}).restore(plain).assert_existing_objects_matched().expect_partial()
    return model


@contextlib.contextmanager
def _restoring(path: str) -> Iterator[str]:
    """Yields the path of a checkpoint for TensorFlow. Raises ValueError if its values do not match the network."""
    try:
        with without_wildcards(path) as plain:
            yield plain
    except (AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise ValueError(
            f"{path} does not match {run_of_checkpoint(path).config}: {reason}. Copy both again from the same run."
        ) from error


def _make_network(config, variant, **arguments):
    return make_model(variant, classes=config.num_label_classes, drop_path_rate=1 - config.survival_prob, **arguments)


def _make_classifier(config, variant):
    return _make_network(config, variant, name=config.model_name.replace("-", ""))


def _policy_name(config, strategy):
    """Returns the name of the Keras dtype policy for `config.precision`."""
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    name = config.precision or ("bfloat16" if on_tpu else "float32")
    return name if name == "float32" else f"mixed_{name}"


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _freeze_layers(model, layers):
    """Freezes the layers whose complete name matches a pattern, or a name in FROZEN."""
    if not layers:
        return
    pattern = re.compile(FROZEN.get(layers, layers))
    frozen = [layer for layer in model.layers if layer.weights and pattern.fullmatch(layer.name)]
    if not frozen:
        raise ValueError(
            f"`frozen_layers` must be backbone, batch_norm or a pattern that matches complete layer names, for example "
            f"block1a_.*, but it matches no layer of {model.name}. Received: frozen_layers={layers}"
        )
    for layer in frozen:
        layer.trainable = False
    if not model.trainable_variables:
        raise ValueError(f"`frozen_layers` must leave a layer to train. Received: frozen_layers={layers}")


def set_batch_norms(model: keras.Model, config: TrainConfig, replicas: int) -> None:
    """Sets the momentum of batch normalization, and the number of replicas that share its statistics.

    The number is all replicas, one, or with `batch_norm_sync=groups` the number that the official code uses.

    Raises:
        ValueError: the groups do not divide the replicas.
    """
    group = {"all": replicas, "none": 1, "groups": max(8, replicas // 8) if replicas > 8 else 1}[config.batch_norm_sync]
    if replicas % group:
        raise ValueError(
            f"`batch_norm_sync=groups` needs a multiple of {group} replicas. Received: {replicas} replicas. "
            "Choose all or none, or another number of devices."
        )
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.momentum, layer.synchronized, layer.group = config.batch_norm_momentum, group > 1, group


def _check_options(config, run):
    """Raises ValueError if the options that must match differ from those of the run."""
    old, new = run.read_options(), dataclasses.asdict(config)
    if old is None:
        raise FileNotFoundError(
            f"{run.config} is missing: without it the checkpoints of the run cannot be used. {run.how_to_get_options()}"
        )
    if bool(old.get("moving_average_decay")) == (new["moving_average_decay"] > 0):  # only averaging on or off counts
        old["moving_average_decay"] = new["moving_average_decay"]
    training = TRAINING if config.mode in ("train", "train_and_eval") else ()
    fixed = (*NETWORK, "moving_average_decay", *training)
    differing = [name for name in fixed if old.get(name) != new[name]]
    if differing:
        expected = ", ".join(f"{name}={old.get(name)}" for name in differing)
        received = ", ".join(f"{name}={new[name]}" for name in differing)
        raise ValueError(
            f"{run.path} holds a run with {expected}. Received: {received}. Give the same options, or another "
            "`model_dir`."
        )


def divergence_message(what: str, step: int) -> str:
    """Returns the error message of a run that has diverged."""
    return (
        f"The {what} at step {step}. The checkpoints are from before. Check the data, and train again with a lower "
        "`base_learning_rate`; if it diverges again, in another `model_dir`."
    )
