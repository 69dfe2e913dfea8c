"""The training step: loss, gradients, update, averaged weights."""

import keras
import tensorflow as tf

from keras_efficientnet.augmentation.mixing import targets_of
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.optimizers import average_decay
from keras_efficientnet.training.state import Run


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
        targets = targets_of(labels, classes, smoothing)
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
