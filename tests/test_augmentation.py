"""Hand arithmetic on small images."""

import numpy as np
import tensorflow as tf

from keras_efficientnet import augmentation
from keras_efficientnet.augmentation import random_affine, transform

IMAGE = tf.constant(np.random.RandomState(0).rand(8, 8, 3).astype("float32") * 255)
IDENTITY = tf.constant([[1.0, 0.0], [0.0, 1.0]])


def test_identity_changes_nothing():
    np.testing.assert_allclose(transform(IMAGE, IDENTITY, tf.zeros(2)), IMAGE, atol=1e-4)


def test_offset_moves_by_whole_pixels_and_lets_black_in():
    moved = transform(IMAGE, IDENTITY, tf.constant([2.0, 1.0]))
    np.testing.assert_allclose(moved[:-1, :-2], IMAGE[1:, 2:], atol=1e-4)
    assert not np.any(moved[-1]) and not np.any(moved[:, -2:])


def test_quarter_turn_is_numpys():
    quarter = tf.constant([[0.0, -1.0], [1.0, 0.0]])
    turned = transform(IMAGE, quarter, tf.constant([7.0, 0.0]))
    np.testing.assert_allclose(turned, np.rot90(IMAGE.numpy(), 1), atol=1e-3)


def test_seed_alone_decides_also_in_a_graph():
    seeds = [tf.constant([3, number]) for number in range(4)]
    images = [random_affine(IMAGE, seed) for seed in seeds]
    for seed, image in zip(seeds, images, strict=True):
        np.testing.assert_allclose(tf.function(random_affine)(IMAGE, seed), image, atol=1e-3)
    assert all(np.abs(image - images[0]).max() > 1 for image in images[1:])


def test_centre_moves_by_the_shift_alone(monkeypatch):
    monkeypatch.setattr(augmentation, "SHIFT", 0.0)
    dot = np.zeros((9, 9, 3), "float32")
    dot[4, 4] = 255
    for number in range(20):
        moved = random_affine(tf.constant(dot), tf.constant([0, number])).numpy()
        assert np.unravel_index(moved[..., 0].argmax(), (9, 9)) == (4, 4)
        assert moved[4, 4, 0] > 250
