"""Scores of a model; expected numbers are computed by hand or by scikit-learn."""

import keras
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tensorflow as tf

from keras_efficientnet.evaluation.metrics import (
    Outcomes,
    calibration,
    confusion_matrix,
    make_evaluator,
    outcomes_from_probabilities,
    padded_batches,
    score,
)
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training import loop

# by hand: the true class is first, second, sixth and first of six
LOGITS = np.log([[60, 10, 9, 8, 7, 6], [30, 40, 10, 8, 7, 5], [30, 20, 15, 12, 11, 10], [1, 1, 1, 1, 1, 95]]) / 1.0
LABELS = np.array([0, 0, 5, 5], "int32")


def outcomes_of(logits, labels):
    """Returns the outcomes of logits, computed by a complete evaluation."""
    examples = tf.data.Dataset.from_tensor_slices((np.asarray(logits, "float32"), np.asarray(labels, "int32")))
    return make_evaluator(tf.distribute.get_strategy(), lambda x, training: x)(
        lambda index, hosts: examples, len(labels), 4
    )


def test_scores_equal_those_by_hand():
    scores = score(outcomes_of(LOGITS, LABELS))
    totals = np.exp(LOGITS).sum(axis=1)
    assert (scores.top_1_accuracy, scores.top_5_accuracy, scores.images) == (2 / 4, 3 / 4, 4)
    assert scores.loss == pytest.approx(-np.log(np.array([60, 30, 10, 95]) / totals).mean(), rel=1e-5)


def test_first_of_equally_likely_classes_is_predicted():
    scores = score(outcomes_of(np.zeros((3, 6)), [0, 1, 5]))
    assert (scores.top_1_accuracy, scores.top_5_accuracy) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def random_outcomes(images=1000, classes=7):
    """Returns logits that are often correct, labels of all classes but one, and their outcomes."""
    random = np.random.RandomState(3)
    labels = random.randint(0, classes - 1, images)  # the last class has no image
    logits = random.normal(0, 1.5, (images, classes)) + 2 * np.eye(classes)[labels] * random.rand(images, 1)
    return logits, labels, outcomes_of(logits, labels)


def test_confusion_matrix_equals_scikit_learn():
    logits, labels, outcomes = random_outcomes()
    matrix = confusion_matrix(outcomes, 7)
    expected = sklearn.metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=range(7))
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == "int64" and matrix.sum() == 1000 and expected[2, 3] != expected[3, 2]


def test_calibration_error_equals_the_one_by_hand():
    """Three bins: nine images at 0.90, six correct; one at 0.26, wrong; two at 0.30, one correct."""
    confidences = np.array([0.9] * 9 + [0.26] + [0.3] * 2)
    hits = np.array([1] * 6 + [0] * 3 + [0] + [1, 0])
    rest = (1 - confidences) / 9
    logits = np.log(np.concatenate([confidences[:, np.newaxis], np.tile(rest[:, np.newaxis], (1, 9))], axis=1))
    scores = score(outcomes_of(logits, np.where(hits, 0, 1)))
    # 0.9 is in (13/15, 14/15]; 0.26 and 0.3 in (3/15, 4/15] and (4/15, 5/15]
    expected = (abs(9 * 0.9 - 6) + abs(0.26 - 0) + abs(2 * 0.3 - 1)) / 12
    assert scores.expected_calibration_error == pytest.approx(expected, rel=1e-5)


def test_calibration_error_equals_the_formula_of_the_paper():
    """Guo et al. 2017, equation 3, as a loop over the bins ((m - 1) / M, m / M]."""
    logits, labels, outcomes = random_outcomes()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidences, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = (confidences > (m - 1) / 15) & (confidences <= m / 15)
        if inside.any():
            expected += inside.sum() / len(labels) * abs(hits[inside].mean() - confidences[inside].mean())
    assert score(outcomes).expected_calibration_error == pytest.approx(expected, rel=1e-4)
    assert expected > 0.05


def test_a_bin_includes_its_upper_edge():
    outcomes = Outcomes(
        labels=np.array([0, 0]),
        predicted=np.array([0, 1]),
        in_top_5=np.array([True, True]),
        confidences=np.array([1.0, 1 / 15]),
        losses=np.array([0.0, 3.0]),
    )
    images, confidences, hits = calibration(outcomes).T
    assert (images[0], images[14], images.sum()) == (1, 1, 2)
    assert (hits[0], hits[14], confidences[14]) == (0, 1, 1.0)


def linear_data(images=23):
    """Returns a model and images of 2 x 2 pixels: their mean is the logits, correct for two of three images."""
    random = np.random.RandomState(0)
    pixels = random.rand(images, 2, 2, 6).astype("float32")
    truth = pixels.mean(axis=(1, 2)).argmax(axis=1)
    labels = np.where(np.arange(images) % 3, truth, (truth + 1) % 6).astype("int32")
    inputs = keras.Input((2, 2, 6))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    return model, tf.data.Dataset.from_tensor_slices((pixels, labels)), np.mean(np.arange(images) % 3 > 0)


@pytest.mark.parametrize("batch", [2, 4, 8, 22, 24, 100])
@pytest.mark.parametrize("replicas", [1, 2])
def test_every_image_counts_once_with_any_batch_size(batch, replicas):
    strategy = loop.make_strategy(make_config(num_replicas=replicas))
    with strategy.scope():
        model, examples, expected = linear_data()
    outcomes = make_evaluator(strategy, model)(lambda index, hosts: examples, 23, batch)
    scores = score(outcomes)
    assert scores.images == 23
    assert scores.top_1_accuracy == pytest.approx(expected)
    logits, labels = model.predict(examples.batch(23), verbose=0), next(iter(examples.batch(23)))[1].numpy()
    assert scores.loss == pytest.approx(
        sklearn.metrics.log_loss(labels, scipy.special.softmax(logits, axis=1)), rel=1e-5
    )
    matrix = sklearn.metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=range(6))
    np.testing.assert_array_equal(confusion_matrix(outcomes, 6), matrix)


def test_probabilities_are_scored_like_the_model():
    model, examples, expected = linear_data()
    images, labels = next(examples.take(23).batch(23).as_numpy_iterator())
    outcomes = outcomes_from_probabilities(np.asarray(keras.ops.softmax(model(images))), labels)
    scores = score(outcomes)
    assert scores.top_1_accuracy == pytest.approx(expected) and scores.images == 23
    np.testing.assert_array_equal(outcomes.predicted, model.predict(examples.batch(23), verbose=0).argmax(axis=1))


def test_padded_batches_have_one_size_and_end():
    examples = tf.data.Dataset.from_tensor_slices((np.zeros((5, 1, 1, 3), "f"), np.zeros(5, "int32")))
    weights = [batch[2].numpy().tolist() for batch in padded_batches(examples, 5, 2, multiple=2)]
    assert weights == [[1, 1], [1, 1], [1, 0], [0, 0]]
