"""A model and a dataset -> top-1, top-5 and loss, every image counted once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Scores(NamedTuple):
    top_1_accuracy: float  # share of the images whose likeliest class is right
    top_5_accuracy: float  # share of the images with the right class among the likeliest five
    loss: float  # mean cross-entropy, natural logarithm, without smoothing or weight decay
    images: int


def padded_batches(examples: tf.data.Dataset, images: int, batch: int, multiple: int = 1) -> tf.data.Dataset:
    """Batches of one size with weights: 1 for an image, 0 for the blanks that fill the last ones.

    Args:
        examples: `images` times (image, label).
        images: how many.
        batch: images a batch.
        multiple: the batches come to a multiple of this number, so that so many replicas all have work.

    Returns:
        Batches (images, labels, weights), [batch, ...] and [batch].
    """
    shapes = [tf.zeros(spec.shape, spec.dtype) for spec in examples.element_spec]
    blanks = tf.data.Dataset.from_tensors((*shapes, 0.0)).repeat()
    weighted = examples.map(lambda image, label: (image, label, 1.0))
    steps = math.ceil(images / (batch * multiple)) * multiple
    return weighted.concatenate(blanks).batch(batch, drop_remainder=True).take(steps).prefetch(tf.data.AUTOTUNE)


def sums(logits, labels, weights):
    """[4]: weighted sums of top-1 hits, top-5 hits, cross-entropy and 1."""
    logits = tf.cast(logits, tf.float32)
    likeliest = tf.math.top_k(logits, min(5, logits.shape[-1])).indices  # of equal ones the first, as argmax
    hits = likeliest == tf.cast(labels, tf.int32)[:, tf.newaxis]
    top_1, top_5 = hits[:, 0], tf.reduce_any(hits, axis=1)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    rows = [tf.cast(top_1, tf.float32), tf.cast(top_5, tf.float32), loss, tf.ones_like(loss)]
    return tf.reduce_sum(weights * tf.stack(rows), axis=1)


def make_evaluator(strategy: tf.distribute.Strategy, model) -> Callable[[tf.data.Dataset, int, int], Scores]:
    """A function (examples, images, batch) -> Scores that traces the model, which gives logits, once.

    `batch` counts the images of all replicas together and must be a multiple of their number.
    """
    replicas = strategy.num_replicas_in_sync

    def replica_step(images, labels, weights):
        return sums(model(images, training=False), labels, weights)

    @tf.function
    def step(batch):
        return strategy.reduce("sum", strategy.run(replica_step, args=batch), axis=None)

    def evaluate(examples, images, batch):
        batches = strategy.distribute_datasets_from_function(
            lambda _: padded_batches(examples, images, batch // replicas, multiple=replicas)
        )
        return _scores(np.sum([step(batch) for batch in batches], axis=0, dtype="float64"))

    return evaluate


def evaluate_function(
    function: Callable[[np.ndarray], np.ndarray], examples: tf.data.Dataset, images: int, batch: int = 32
) -> tuple[Scores, np.ndarray]:
    """Scores of any function from images to probabilities, an exported file for example, and its choices.

    Args:
        function: float32 [n, height, width, 3] -> probabilities [n, classes].
        examples: `images` times (image, label).
        images: how many.
        batch: images a call.

    Returns:
        The scores, and the likeliest class of each image, [images].
    """
    total, choices = np.zeros(4), []
    for pixels, labels in examples.take(images).batch(batch).as_numpy_iterator():
        probabilities = np.asarray(function(pixels))
        logits = np.log(np.maximum(probabilities, np.finfo("float32").tiny))
        total += sums(logits, labels, np.ones(len(labels), "float32"))
        choices.append(probabilities.argmax(axis=1))
    return _scores(total), np.concatenate(choices)


def _scores(total) -> Scores:
    top_1, top_5, loss, images = (float(value) for value in total)
    return Scores(top_1 / images, top_5 / images, loss / images, int(images))
