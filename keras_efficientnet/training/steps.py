"""The training step: loss, gradients, update, averaged weights."""

import keras
import tensorflow as tf

from keras_efficientnet.augmentation.mixing import targets_of
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.optimizers import DECOUPLED, average_decay
from keras_efficientnet.training.state import Run


def decayed_variables(model: keras.Model, batch_norms: bool = False) -> list[keras.Variable]:
    """What weight decay acts on: every trainable variable, biases included; those of batch norms where asked."""
    layers = [layer for layer in model.layers if batch_norms or not isinstance(layer, BatchNormalization)]
    return [variable for layer in layers for variable in layer.trainable_variables]


def make_steps(strategy: tf.distribute.Strategy, training: Run):
    """A function (iterator, count) -> mean loss that takes `count` training steps in one call of the device.

    Loss and update are those of the official code: smoothed cross-entropy and L2 on everything but batch norms; the
    averaged weights follow every variable, the statistics of the batch norms included.
    """
    parts = training.config.accumulate_steps
    if parts == 1:
        replica_step, after_parts = make_replica_step(strategy, training), None
    else:
        replica_step, after_parts = _make_part_step(strategy, training)

    @tf.function
    def take_steps(iterator, count):
        mean = tf.constant(0.0)
        for _ in tf.range(count):
            for _ in tf.range(parts):
                loss = strategy.reduce("sum", strategy.run(replica_step, args=next(iterator)), axis=None)
                # divided at once: of this sum and the one in the loss TensorFlow's optimisers may make one, by way of
                # a temporary variable, which the next call finds there (AlreadyExistsError, for CondConv's B0)
                mean += loss / tf.cast(count, tf.float32)
            if after_parts:
                strategy.run(after_parts)
        return mean

    return take_steps


def make_replica_step(strategy: tf.distribute.Strategy, training: Run):
    """A function (images, labels) -> loss: what one replica does with its part of a batch."""
    loss_of, update = _make_loss(strategy, training), _make_update(training)

    def replica_step(images, labels):
        loss, gradients = _differentiate(loss_of, training, images, labels)
        update(gradients)
        return loss

    return replica_step


def _make_part_step(strategy, training):
    """The step of a part of a batch, which adds up the gradients; and the update by them, after the last part."""
    loss_of, update = _make_loss(strategy, training), _make_update(training)
    totals = _make_totals(strategy, training.model)

    def add_part(images, labels):
        loss, gradients = _differentiate(loss_of, training, images, labels)
        for total, gradient in zip(totals, gradients, strict=True):
            total.assign_add(gradient)
        return loss

    def update_by_totals():
        update([total.read_value() for total in totals])
        for total in totals:
            total.assign(tf.zeros_like(total))

    return add_part, update_by_totals


def _make_loss(strategy, training):
    config, model = training.config, training.model
    shares = strategy.num_replicas_in_sync * config.accumulate_steps
    decay = 0.0 if config.optimizer in DECOUPLED else config.weight_decay / shares
    decayed = decayed_variables(model, config.decay_batch_norm) if decay else []
    smoothing, classes = config.label_smoothing, config.num_label_classes

    def loss_of(images, labels):
        logits = model(images, training=True)
        targets = targets_of(labels, classes, smoothing)
        loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits)) / config.train_batch_size
        return loss + decay * tf.add_n([tf.nn.l2_loss(v.value) for v in decayed]) if decayed else loss

    return loss_of


def _differentiate(loss_of, training, images, labels):
    weights = [v.value for v in training.model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)  # which are plain tensors where the state is handed in, as tests/lower_for_tpu.py does
        loss = loss_of(images, labels)
        scaled = loss * _scale(training.optimizer)
    return loss, tape.gradient(scaled, weights)


def _scale(optimizer):
    """What the loss is multiplied by, so that its gradients do not vanish in float16."""
    scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return tf.convert_to_tensor(optimizer.dynamic_scale.value) if scaling else 1.0


def _make_update(training):
    config, optimizer, variables = training.config, training.optimizer, training.model.trainable_variables
    shadows = list(zip(training.average.weights, training.model.weights, strict=True)) if training.averaged else []

    def update(gradients):
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
        if config.gradient_clip_norm:
            most = config.gradient_clip_norm * _scale(optimizer)
            gradients, _ = tf.clip_by_global_norm(gradients, most)
        optimizer.apply(gradients, variables)
        training.taken.assign_add(1)
        rate = 1.0 - average_decay(config.moving_average_decay, optimizer.iterations)
        for shadow, variable in shadows:
            shadow.value.assign_sub(rate * (shadow.value - variable.value))

    return update


def _make_totals(strategy, model):
    """Where each replica sums the gradients of the parts of a batch."""
    with strategy.scope():
        return [
            tf.Variable(
                tf.zeros(v.shape, v.dtype),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE,
            )
            for v in model.trainable_variables
        ]
