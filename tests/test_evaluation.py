import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_efficientnet import training
from keras_efficientnet.config import make_config
from keras_efficientnet.evaluation import evaluate_function, make_evaluator, padded_batches, sums

# by hand: the right class is first, second, sixth and first of six
LOGITS = np.log([[60, 10, 9, 8, 7, 6], [30, 40, 10, 8, 7, 5], [30, 20, 15, 12, 11, 10], [1, 1, 1, 1, 1, 95]]) / 1.0
LABELS = np.array([0, 0, 5, 5], "int32")


def test_sums_are_those_by_hand():
    top_1, top_5, loss, images = sums(LOGITS.astype("float32"), LABELS, np.ones(4, "float32")).numpy()
    totals = np.exp(LOGITS).sum(axis=1)
    assert (top_1, top_5, images) == (2, 3, 4)
    assert loss == pytest.approx(-np.log(np.array([60, 30, 10, 95]) / totals).sum(), rel=1e-5)


def test_of_equal_scores_the_first_counts():
    top_1, top_5, _, _ = sums(np.zeros((3, 6), "float32"), np.array([0, 1, 5], "int32"), np.ones(3, "float32")).numpy()
    assert (top_1, top_5) == (1, 2)


def test_blanks_do_not_count():
    weights = np.array([1, 0, 0, 0], "float32")
    assert sums(LOGITS.astype("float32"), LABELS, weights).numpy()[[0, 1, 3]].tolist() == [1, 1, 1]


def linear_data(images=23):
    """Images of 2 x 2 pixels whose mean tells one of six classes, two of three times right."""
    random = np.random.RandomState(0)
    pixels = random.rand(images, 2, 2, 6).astype("float32")
    truth = pixels.mean(axis=(1, 2)).argmax(axis=1)
    labels = np.where(np.arange(images) % 3, truth, (truth + 1) % 6).astype("int32")
    inputs = keras.Input((2, 2, 6))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    return model, tf.data.Dataset.from_tensor_slices((pixels, labels)), np.mean(np.arange(images) % 3 > 0)


@pytest.mark.parametrize("batch", [2, 4, 8, 22, 24, 100])
@pytest.mark.parametrize("replicas", [1, 2])
def test_every_image_counts_once_whatever_the_batch(batch, replicas):
    strategy = training.make_strategy(make_config(num_replicas=replicas))
    with strategy.scope():
        model, examples, expected = linear_data()
    scores = make_evaluator(strategy, model)(examples, 23, batch)
    assert scores.images == 23
    assert scores.top_1_accuracy == pytest.approx(expected)
    _, _, loss, _ = sums(
        model.predict(examples.batch(23), verbose=0), next(iter(examples.batch(23)))[1], np.ones(23, "f")
    )
    assert scores.loss == pytest.approx(float(loss) / 23, rel=1e-5)


def test_function_is_scored_like_the_model():
    model, examples, expected = linear_data()
    scores, choices = evaluate_function(lambda pixels: keras.ops.softmax(model(pixels)), examples, 23, batch=5)
    assert scores.top_1_accuracy == pytest.approx(expected) and scores.images == 23
    np.testing.assert_array_equal(choices, model.predict(examples.batch(23), verbose=0).argmax(axis=1))


def test_batches_have_one_size_and_end():
    examples = tf.data.Dataset.from_tensor_slices((np.zeros((5, 1, 1, 3), "f"), np.zeros(5, "int32")))
    weights = [batch[2].numpy().tolist() for batch in padded_batches(examples, 5, 2, multiple=2)]
    assert weights == [[1, 1], [1, 1], [1, 0], [0, 0]]
