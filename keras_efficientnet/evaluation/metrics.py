"""Evaluates a model once per image, and computes scores, the confusion matrix and the calibration from the result."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.config import TOP

CALIBRATION_BINS = 15  # of the confidence; Guo et al. 2017, table 1


class Outcomes(NamedTuple):
    """Predictions of a network: arrays [images]."""

    labels: np.ndarray  # int64: true class
    predicted: np.ndarray  # int64: predicted class, the likeliest; the first of equally likely ones
    in_top_5: np.ndarray  # bool: whether the true class is among the likeliest five
    confidences: np.ndarray  # float64: probability of the predicted class
    losses: np.ndarray  # float64: cross-entropy, natural logarithm, without smoothing or weight decay


class Scores(NamedTuple):
    top_1_accuracy: float  # share of images whose predicted class is the true class
    top_5_accuracy: float  # share of images whose true class is among the likeliest five
    loss: float  # mean cross-entropy, natural logarithm, without smoothing or weight decay
    expected_calibration_error: float  # mean distance of confidence and accuracy, 0 to 1; see `calibration`
    images: int


def score(outcomes: Outcomes) -> Scores:
    """Returns the scores of one or more images.

    Example:
        >>> outcomes = Outcomes(
        ...     labels=np.array([0, 1]),
        ...     predicted=np.array([0, 0]),
        ...     in_top_5=np.array([True, True]),
        ...     confidences=np.array([0.75, 0.75]),
        ...     losses=np.array([0.25, 0.75]),
        ... )
        >>> score(outcomes).top_1_accuracy, score(outcomes).loss
        (0.5, 0.5)
    """
    images, confidences, hits = calibration(outcomes).T
    return Scores(
        top_1_accuracy=float(np.mean(outcomes.labels == outcomes.predicted)),
        top_5_accuracy=float(np.mean(outcomes.in_top_5)),
        loss=float(np.mean(outcomes.losses)),
        expected_calibration_error=float(np.abs(hits - confidences).sum() / images.sum()),
        images=len(outcomes.labels),
    )


def confusion_matrix(outcomes: Outcomes, classes: int) -> np.ndarray:
    """Returns the number of images by true class (row) and predicted class (column): int64 [classes, classes]."""
    matrix: np.ndarray = np.zeros((classes, classes), "int64")
    np.add.at(matrix, (outcomes.labels, outcomes.predicted), 1)
    return matrix


def calibration(outcomes: Outcomes) -> np.ndarray:
    """Returns sums over the images in bins of equal width of the confidence.

    Returns:
        float64 [15, 3]: number of images, sum of their confidences, and number of correct predictions in the bins
        (0, 1/15], (1/15, 2/15], ... The expected calibration error is the sum of |correct - confidences| divided by the
        number of all images.

    Source: Guo et al. 2017, arxiv.org/abs/1706.04599, equations 2 and 3.
    """
    edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    bins = np.searchsorted(edges, outcomes.confidences, side="left")
    hits = outcomes.labels == outcomes.predicted
    columns = (None, outcomes.confidences, hits)
    return np.stack([np.bincount(bins, weights, minlength=CALIBRATION_BINS) for weights in columns], axis=1)


def padded_batches(examples: tf.data.Dataset, images: int, batch: int, multiple: int = 1) -> tf.data.Dataset:
    """Returns batches of one size with weights: 1 for an image, 0 for the blank images that fill the last batches.

    Args:
        examples: `images` times (image, label).
        images: number of images.
        batch: images per batch.
        multiple: the number of batches is a multiple of this number, so that every replica gets as many.

    Returns:
        Batches (images, labels, weights), [batch, ...] and [batch].
    """
    shapes = [tf.zeros(spec.shape, spec.dtype) for spec in examples.element_spec]
    blanks = tf.data.Dataset.from_tensors((*shapes, 0.0)).repeat()
    weighted = examples.map(lambda image, label: (image, label, 1.0))
    steps = math.ceil(images / (batch * multiple)) * multiple
    return weighted.concatenate(blanks).batch(batch, drop_remainder=True).take(steps).prefetch(tf.data.AUTOTUNE)


def outcome_rows(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns true class, predicted class, whether in the top 5, confidence, loss and weight: float32 [n, 6].

    Class numbers below 2^24 are exact.
    """
    logits = tf.cast(logits, tf.float32)
    likeliest = tf.math.top_k(logits, min(TOP, logits.shape[-1])).indices  # like argmax, the first of equal ones
    in_top_5 = tf.reduce_any(likeliest == tf.cast(labels, tf.int32)[:, tf.newaxis], axis=1)
    confidences = tf.reduce_max(tf.nn.softmax(logits), axis=1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    columns = (labels, likeliest[:, 0], in_top_5, confidences, losses, weights)
    return tf.stack([tf.cast(column, tf.float32) for column in columns], axis=1)


Shard = Callable[[int, int], tf.data.Dataset]  # (number of this host, number of hosts) -> (image, label) of this host
Evaluator = Callable[[Shard, int, int], Outcomes]  # (shard, images, batch) -> outcomes


def make_evaluator(strategy: tf.distribute.Strategy, model: keras.Model) -> Evaluator:
    """Returns a function (shard, images, batch) -> Outcomes, which traces the model only once.

    `images` and `batch` count the images of all hosts and replicas; `batch` must be a multiple of the number of
    replicas. The outcomes are not in the order of the examples. Six numbers per image leave the devices.

    Args:
        strategy: runs the model.
        model: returns logits.
    """
    replicas = strategy.num_replicas_in_sync

    def replica_step(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return outcome_rows(model(images, training=False), labels, weights)

    @tf.function
    def step(batch: tuple) -> tf.Tensor:
        return strategy.gather(strategy.run(replica_step, args=batch), axis=0)

    def evaluate(shard: Shard, images: int, batch: int) -> Outcomes:
        def pipeline(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
            hosts = context.num_input_pipelines if context else 1
            examples = shard(context.input_pipeline_id if context else 0, hosts)
            largest_shard = math.ceil(images / hosts)  # blank images fill the other shards
            return padded_batches(examples, largest_shard, batch // replicas, multiple=replicas // hosts)

        batches = strategy.distribute_datasets_from_function(pipeline)
        return _to_outcomes([step(batch) for batch in batches])

    return evaluate


def outcomes_from_probabilities(probabilities: np.ndarray, labels: np.ndarray) -> Outcomes:
    """Returns the outcomes of probabilities, float32 [n, classes], whose true classes are `labels`, [n]."""
    logits = np.log(np.maximum(probabilities, np.finfo("float32").tiny))
    return _to_outcomes([outcome_rows(logits, labels, np.ones(len(labels), "float32"))])


def _to_outcomes(rows: Sequence[tf.Tensor]) -> Outcomes:
    """Returns the outcomes of the rows with a weight: the others belong to blank images."""
    columns = np.concatenate(rows).astype("float64").T
    labels, predicted, in_top_5, confidences, losses, _ = columns[:, columns[-1] > 0]
    return Outcomes(
        labels=labels.astype("int64"),
        predicted=predicted.astype("int64"),
        in_top_5=in_top_5 > 0,
        confidences=confidences,
        losses=losses,
    )
