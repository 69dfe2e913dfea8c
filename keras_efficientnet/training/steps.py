"""The training step: loss, gradients, update, averaged weights."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_efficientnet.augmentation.mixing import targets_of
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.optimizers import DECOUPLED, average_decay
from keras_efficientnet.training.state import TrainState

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (images, labels) -> loss


def decayed_variables(model: keras.Model, batch_norms: bool = False) -> list[keras.Variable]:
    """Returns the trainable variables with weight decay, biases included.

    Args:
        model: the network.
        batch_norms: whether to include the variables of batch normalization.
    """
    layers = [layer for layer in model.layers if batch_norms or not isinstance(layer, BatchNormalization)]
    return [variable for layer in layers for variable in layer.trainable_variables]


def make_steps(state: TrainState) -> Callable[[Iterator[Any], tf.Tensor], tf.Tensor]:
    """Returns a function (iterator, count) -> mean loss that runs `count` training steps in one call of the device.

    Loss and update are those of the official code: smoothed cross-entropy plus L2 on everything except batch
    normalization; the averaged weights follow every variable, batch normalization statistics included.
    """
    strategy, parts = state.strategy, state.config.accumulate_steps
    if parts == 1:
        replica_step, update_after_parts = make_replica_step(state), None
    else:
        replica_step, update_after_parts = _make_part_step(state)

    @tf.function
    def run_steps(iterator, count):
        mean = tf.constant(0.0)
        for _ in tf.range(count):
            for _ in tf.range(parts):
                loss = strategy.reduce("sum", strategy.run(replica_step, args=next(iterator)), axis=None)
                # Divides here, not after the loop: TensorFlow's optimizers may merge this sum with the one in the loss
                # through a temporary variable, which the next call then finds (AlreadyExistsError, CondConv's B0)
                mean += loss / tf.cast(count, tf.float32)
            if update_after_parts:
                strategy.run(update_after_parts)
        return mean

    return run_steps


def make_replica_step(state: TrainState) -> Loss:
    """Returns a function (images, labels) -> loss that one replica runs on its part of a batch."""
    compute_loss, update = make_loss(state), _make_update(state)

    def replica_step(images, labels):
        loss, gradients = differentiate(compute_loss, state, images, labels)
        update(gradients)
        return loss

    return replica_step


def _make_part_step(state):
    """Returns the step of one part of a batch, which accumulates gradients, and the update after the last part."""
    compute_loss, update = make_loss(state), _make_update(state)
    totals = _make_accumulators(state)

    def add_part(images, labels):
        loss, gradients = differentiate(compute_loss, state, images, labels)
        for total, gradient in zip(totals, gradients, strict=True):
            total.assign_add(gradient)
        return loss

    def update_with_totals():
        update([total.read_value() for total in totals])
        for total in totals:
            total.assign(tf.zeros_like(total))

    return add_part, update_with_totals


def make_loss(state: TrainState) -> Loss:
    """Returns a function (images, labels) -> loss; the losses of all replicas and parts sum to that of the batch."""
    config, model = state.config, state.model
    shares = state.strategy.num_replicas_in_sync * config.accumulate_steps
    decay = 0.0 if config.optimizer in DECOUPLED else config.weight_decay / shares
    decayed = decayed_variables(model, config.decay_batch_norm) if decay else []
    smoothing, classes = config.label_smoothing, model.output_shape[-1]

    def compute_loss(images, labels):
        logits = model(images, training=True)
        targets = targets_of(labels, classes, smoothing)
        loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits)) / config.train_batch_size
        return loss + decay * tf.add_n([tf.nn.l2_loss(v.value) for v in decayed]) if decayed else loss

    return compute_loss


def differentiate(
    compute_loss: Loss, state: TrainState, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the loss, and the gradients of the scaled loss with respect to the trainable variables."""
    weights = [v.value for v in state.model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)  # plain tensors inside a keras.StatelessScope, as in tests/lower_for_tpu.py
        loss = compute_loss(images, labels)
        scaled = loss * _loss_scale(state.optimizer)
    return loss, tape.gradient(scaled, weights)


def _loss_scale(optimizer):
    """Returns the factor of the loss that keeps its gradients from vanishing in float16; 1 in other types."""
    is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return tf.convert_to_tensor(optimizer.dynamic_scale.value) if is_scaling else 1.0


def _make_update(state):
    config, optimizer, variables = state.config, state.optimizer, state.model.trainable_variables
    averages = list(zip(state.average.weights, state.model.weights, strict=True)) if state.averaged else []

    def update(gradients):
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
        if config.gradient_clip_norm:
            maximum = config.gradient_clip_norm * _loss_scale(optimizer)
            gradients, _ = tf.clip_by_global_norm(gradients, maximum)
        optimizer.apply(gradients, variables)
        state.batches_taken.assign_add(1)
        rate = 1.0 - average_decay(config.moving_average_decay, optimizer.iterations)
        for average, variable in averages:
            average.value.assign_sub(rate * (average.value - variable.value))

    return update


def _make_accumulators(state):
    """Returns a variable for each gradient, in which each replica sums the parts of a batch."""
    with state.strategy.scope():
        return [
            tf.Variable(
                tf.zeros(v.shape, v.dtype),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )
            for v in state.model.trainable_variables
        ]
