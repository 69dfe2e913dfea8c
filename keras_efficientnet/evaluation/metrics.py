"""A model and a dataset -> what becomes of each image, once; from that the scores, the confusions, the calibration."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

CALIBRATION_BINS = 15  # of the confidence; Guo et al. 2017, table 1


class Outcomes(NamedTuple):
    """What a network makes of images: arrays [images]."""

    labels: np.ndarray  # int64: the right class
    choices: np.ndarray  # int64: the likeliest class, of equal ones the first
    in_top_5: np.ndarray  # bool: whether the right class is among the likeliest five
    confidences: np.ndarray  # float64: probability of the choice
    losses: np.ndarray  # float64: cross-entropy, natural logarithm, without smoothing or weight decay


class Scores(NamedTuple):
    top_1_accuracy: float  # share of the images whose likeliest class is right
    top_5_accuracy: float  # share of the images with the right class among the likeliest five
    loss: float  # mean cross-entropy, natural logarithm, without smoothing or weight decay
    expected_calibration_error: float  # mean distance, 0 to 1, of the confidence from the accuracy; see `calibration`
    images: int


def score(outcomes: Outcomes) -> Scores:
    """The figures that sum up the outcomes of one image or more."""
    images, confidences, hits = calibration(outcomes).T
    return Scores(
        top_1_accuracy=float(np.mean(outcomes.labels == outcomes.choices)),
        top_5_accuracy=float(np.mean(outcomes.in_top_5)),
        loss=float(np.mean(outcomes.losses)),
        expected_calibration_error=float(np.abs(hits - confidences).sum() / images.sum()),
        images=len(outcomes.labels),
    )


def confusion_matrix(outcomes: Outcomes, classes: int) -> np.ndarray:
    """Images by class, int64 [classes, classes]: the row is the right class, the column the chosen one."""
    matrix: np.ndarray = np.zeros((classes, classes), "int64")
    np.add.at(matrix, (outcomes.labels, outcomes.choices), 1)
    return matrix


def calibration(outcomes: Outcomes) -> np.ndarray:
    """How sure the network was, and how often right: sums over the images, in bins of equal width.

    Returns:
        float64 [15, 3]: of the bins (0, 1/15], (1/15, 2/15], ... of the confidence: the images, the sum of their
        confidences, the hits. The expected calibration error is the sum of |hits - confidences| over all images.

    Source: Guo et al. 2017, arxiv.org/abs/1706.04599, equations 2 and 3.
    """
    edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    bins = np.searchsorted(edges, outcomes.confidences, side="left")
    hits = outcomes.labels == outcomes.choices
    columns = (None, outcomes.confidences, hits)
    return np.stack([np.bincount(bins, weights, minlength=CALIBRATION_BINS) for weights in columns], axis=1)


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


def outcome_rows(logits, labels, weights):
    """float32 [n, 6]: label, choice, whether in the top 5, confidence, loss, weight. Exact for classes below 2^24."""
    logits = tf.cast(logits, tf.float32)
    likeliest = tf.math.top_k(logits, min(5, logits.shape[-1])).indices  # of equal ones the first, as argmax
    in_top_5 = tf.reduce_any(likeliest == tf.cast(labels, tf.int32)[:, tf.newaxis], axis=1)
    confidences = tf.reduce_max(tf.nn.softmax(logits), axis=1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    columns = (labels, likeliest[:, 0], in_top_5, confidences, losses, weights)
    return tf.stack([tf.cast(column, tf.float32) for column in columns], axis=1)


Shard = Callable[[int, int], tf.data.Dataset]  # (index of a host, hosts) -> its (image, label), the rest is others'


def make_evaluator(strategy: tf.distribute.Strategy, model) -> Callable[[Shard, int, int], Outcomes]:
    """A function (shard, images, batch) -> Outcomes that traces the model, which gives logits, once.

    `images` and `batch` count those of all hosts and replicas together; `batch` must be a multiple of the replicas. The
    order of the outcomes is not that of the examples. Six numbers an image leave the devices.
    """
    replicas = strategy.num_replicas_in_sync

    def replica_step(images, labels, weights):
        return outcome_rows(model(images, training=False), labels, weights)

    @tf.function
    def step(batch):
        return strategy.gather(strategy.run(replica_step, args=batch), axis=0)

    def evaluate(shard, images, batch):
        def pipeline(context):
            hosts = context.num_input_pipelines if context else 1
            examples = shard(context.input_pipeline_id if context else 0, hosts)
            own = math.ceil(images / hosts)  # of the largest shard; blanks fill the others
            return padded_batches(examples, own, batch // replicas, multiple=replicas // hosts)

        batches = strategy.distribute_datasets_from_function(pipeline)
        return _outcomes([step(batch) for batch in batches])

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
    rows = []
    for pixels, labels in examples.take(images).batch(batch).as_numpy_iterator():
        probabilities = np.asarray(function(pixels))
        logits = np.log(np.maximum(probabilities, np.finfo("float32").tiny))
        rows.append(outcome_rows(logits, labels, np.ones(len(labels), "float32")))
    outcomes = _outcomes(rows)
    return score(outcomes), outcomes.choices


def _outcomes(rows) -> Outcomes:
    """The outcomes of the rows with a weight: the others are blanks."""
    columns = np.concatenate(rows).astype("float64").T
    columns = columns[:, columns[-1] > 0]
    labels, choices, in_top_5, confidences, losses, _ = columns
    return Outcomes(labels.astype("int64"), choices.astype("int64"), in_top_5 > 0, confidences, losses)
