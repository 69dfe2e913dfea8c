"""What stands before and after a network of `models.py`: `preprocess_input` and `decode_predictions`."""

import numpy as np
import pytest
import tensorflow as tf
from reference import fill, reference_images

from keras_efficientnet import models

PANDA = ("n02510455", "giant_panda")  # class 388 of ILSVRC 2012; wordnet.princeton.edu


# (0 - mean) / deviation and (1 - mean) / deviation of torchvision.transforms' ImageNet, red, green, blue; by hand
@pytest.mark.parametrize(
    ("pixel", "expected"), [(0, [-2.117904, -2.035714, -1.804444]), (255, [2.248908, 2.428571, 2.64])]
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_preprocess_input_normalises_by_imagenets_mean_and_deviation(pixel, expected, dtype):
    images = np.full((2, 1, 1, 3), pixel, dtype)
    for result in (models.preprocess_input(images), models.preprocess_input(tf.constant(images)).numpy()):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, np.broadcast_to(expected, (2, 1, 1, 3)), rtol=1e-5)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensor"])
def test_preprocess_input_is_the_preprocessing_inside_the_network(tiny, convert):
    images = reference_images(2, 32, 32, seed=1)
    inside = fill(models.make_model(tiny, classes=10))
    outside = fill(models.make_model(tiny, classes=10, include_preprocessing=False))
    expected = inside(images, training=False).numpy()
    np.testing.assert_allclose(outside(models.preprocess_input(convert(images))), expected, rtol=0, atol=2e-6)
    assert np.abs(outside(images) - expected).max() > 0.1


def test_preprocess_input_leaves_its_argument_alone_and_takes_one_image():
    image = reference_images(1, 4, 4)[0]
    before = image.copy()
    assert models.preprocess_input(image, "tf_efficientnet_b3").shape == (4, 4, 3)
    np.testing.assert_array_equal(image, before)


def test_preprocess_input_names_what_it_cannot_take():
    with pytest.raises(ValueError, match="Unknown model 'resnet50'"):
        models.preprocess_input(np.zeros((1, 4, 4, 3)), "resnet50")
    with pytest.raises(ValueError, match=r"must be \[..., height, width, channels\]. Received: shape=\(1, 3, 64, 64\)"):
        models.preprocess_input(np.zeros((1, 3, 64, 64)))


def test_imagenet_has_a_thousand_sorted_wordnet_ids():
    ids = [wordnet_id for wordnet_id, _ in models.imagenet_classes()]
    assert len(ids) == len(set(ids)) == 1000
    assert ids == sorted(ids)  # the order of the published classifiers: Russakovsky et al. 2015


# torchvision's and keras.applications' lists agree on these
@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, ("n01440764", "tench")),
        (388, PANDA),
        (134, ("n02012849", "crane")),
        (517, ("n03126707", "crane")),
        (999, ("n15075141", "toilet_tissue")),
    ],
)
def test_classes_are_in_the_published_order(index, expected):
    wordnet_id, name = models.imagenet_classes()[index]
    assert (wordnet_id, name.lower().replace(" ", "_")) == expected


@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensor"])
def test_decode_predictions_names_the_likeliest_first(convert):
    scores = np.zeros((2, 1000), "float32")
    scores[0, [388, 0, 999]] = [0.5, 0.25, 0.125]
    scores[1, [7, 388]] = [0.75, 0.25]
    first, second = models.decode_predictions(convert(scores), top=2)
    assert [(row[0], row[2]) for row in first] == [("n02510455", 0.5), ("n01440764", 0.25)]
    assert [(row[0], row[2]) for row in second] == [("n01514668", 0.75), ("n02510455", 0.25)]  # 7 is the cock
    assert all(type(row[2]) is float for row in first)


def test_decode_predictions_names_five_by_default():
    assert [len(rows) for rows in models.decode_predictions(np.random.default_rng(0).random((3, 1000)))] == [5, 5, 5]


@pytest.mark.parametrize("shape", [(1, 10), (1000,), (1, 1, 1000)])
def test_decode_predictions_says_which_shape_it_needs(shape):
    with pytest.raises(ValueError, match=r"must be \[batch, 1000\]"):
        models.decode_predictions(np.zeros(shape))
