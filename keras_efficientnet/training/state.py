"""What a checkpoint holds: model, average, optimizer, seeds; made, saved and restored."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import Variant, find_variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.history import write_json
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model
from keras_efficientnet.optimizers import make_learning_rate, make_optimizer

# What a checkpoint fits: it can be evaluated only with the same network, and a run goes on only with the same of both.
NETWORK = ("model_name", "input_image_size", "num_label_classes", "width_coefficient", "depth_coefficient")
TRAINING = ("data_dir", "num_train_images", "train_batch_size", "optimizer", "dropout_rate", "survival_prob", "seed")


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
        for leftover in checkpoints.glob("*_temp*"):  # of a crash in mid-write
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(checkpoints), self.config.keep_checkpoints)
        if self._manager.latest_checkpoint:
            _check_config(self.config, folder)
            self._checkpoint.restore(self._manager.latest_checkpoint).assert_consumed()
            self._fork_seeds()
        return self.step

    def take(self, path: str) -> None:
        """Takes a checkpoint, in `checkpoints/` or `archive/` of a run, to evaluate it.

        Raises:
            ValueError: the checkpoint is of another network.
            tf.errors.NotFoundError: it is gone.
        """
        _check_config(self.config, Path(path).parent.parent)
        self._checkpoint.restore(path).expect_partial()  # another dropout has other seeds

    def write(self, path: str) -> None:
        """Writes a checkpoint to a path of its own."""
        self._checkpoint.write(path)

    def save(self) -> None:
        """Writes a checkpoint, whole or not at all, and the options it fits; not of a network that has diverged.

        Raises:
            ValueError: the network gives values that are not finite.
        """
        blank = tf.zeros((1, self.variant.resolution, self.variant.resolution, 3))
        for model in (self.model, self.average):
            if not np.isfinite(model(blank, training=False)).all():
                raise ValueError(diverged("network gives values that are not finite", self.step))
        write_json(Path(self._manager.directory).parent / "config.json", dataclasses.asdict(self.config))
        self._manager.save(checkpoint_number=self.step)

    def exportable(self) -> keras.Model:
        """The averaged network with probabilities, free of any strategy."""
        model = _make_classifier(self.config)
        model.set_weights(self.average.get_weights())
        return model


def load_classifier(config: TrainConfig, path: str) -> keras.Model:
    """The averaged network of a checkpoint, with probabilities.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    _check_config(config, Path(path).parent.parent)
    model = _make_classifier(config)
    table = tf.train.Checkpoint(**{v.path: v.value for v in model.weights})
    part = "average" if config.moving_average_decay > 0 else "model"
    tf.train.Checkpoint(**{part: table}).restore(path).assert_existing_objects_matched().expect_partial()
    return model


def _make_classifier(config):
    return make_model(
        make_variant(config),
        classes=config.num_label_classes,
        drop_path_rate=1 - config.survival_prob,
        name=config.model_name.replace("-", ""),
    )


def _synchronize_batch_norms(model):
    """Makes each batch norm look at the images of all replicas: their number then changes no result."""
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.synchronized = True


def _check_config(config, folder):
    old, new = json.loads((folder / "config.json").read_text("utf-8")), dataclasses.asdict(config)
    for options in (old, new):
        options["averaging"] = options["moving_average_decay"] > 0
    fixed = (*NETWORK, "averaging", *(TRAINING if config.mode in ("train", "train_and_eval") else ()))
    differing = [name for name in fixed if old.get(name) != new[name]]
    if differing:
        was = ", ".join(f"{name}={old.get(name)}" for name in differing)
        now = ", ".join(f"{name}={new[name]}" for name in differing)
        raise ValueError(f"{folder} holds a run with {was}; this one has {now}. Choose another `model_dir`.")


def diverged(what: str, step: int) -> str:
    """The words for a run that has left the numbers."""
    return (
        f"The {what} at step {step}. The checkpoints are of before. Look at the data, and start again with a lower "
        "`base_learning_rate`; in another `model_dir` if it goes wrong again."
    )
