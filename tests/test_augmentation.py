"""Augmentation policies, checked by hand arithmetic on small images."""

import bench_augmentation
import numpy as np
import pytest
import tensorflow as tf

from keras_efficientnet.augmentation import policies
from keras_efficientnet.augmentation.operations import OPS
from keras_efficientnet.augmentation.policies import (
    POLICY_V0,
    autoaugment,
    make_augmentation,
    randaugment,
    random_affine,
    transform,
)

IMAGE = tf.constant(np.random.RandomState(0).rand(8, 8, 3).astype("float32") * 255)
IDENTITY = tf.constant([[1.0, 0.0], [0.0, 1.0]])


def test_identity_transform_changes_nothing():
    np.testing.assert_allclose(transform(IMAGE, IDENTITY, tf.zeros(2)), IMAGE, atol=1e-4)


def test_offset_shifts_the_image_and_fills_with_black():
    moved = transform(IMAGE, IDENTITY, tf.constant([2.0, 1.0]))
    np.testing.assert_allclose(moved[:-1, :-2], IMAGE[1:, 2:], atol=1e-4)
    assert not np.any(moved[-1]) and not np.any(moved[:, -2:])


def test_rotation_by_90_degrees_equals_numpys():
    matrix = tf.constant([[0.0, -1.0], [1.0, 0.0]])
    turned = transform(IMAGE, matrix, tf.constant([7.0, 0.0]))
    np.testing.assert_allclose(turned, np.rot90(IMAGE.numpy(), 1), atol=1e-3)


def test_only_the_seed_decides_random_affine_also_in_a_graph():
    seeds = [tf.constant([3, number]) for number in range(4)]
    images = [random_affine(IMAGE, seed) for seed in seeds]
    for seed, image in zip(seeds, images, strict=True):
        np.testing.assert_allclose(tf.function(random_affine)(IMAGE, seed), image, atol=1e-3)
    assert all(np.abs(image - images[0]).max() > 1 for image in images[1:])


def test_without_shift_the_centre_does_not_move(monkeypatch):
    monkeypatch.setattr(policies, "SHIFT", 0.0)
    dot = np.zeros((9, 9, 3), "float32")
    dot[4, 4] = 255
    for number in range(20):
        moved = random_affine(tf.constant(dot), tf.constant([0, number])).numpy()
        assert np.unravel_index(moved[..., 0].argmax(), (9, 9)) == (4, 4)
        assert moved[4, 4, 0] > 250


LEVELS = tf.constant(np.random.RandomState(1).randint(0, 256, (24, 20, 3), "uint8"))
SEEDS = [tf.constant([7, number]) for number in range(300)]


@pytest.mark.parametrize("policy", [autoaugment, randaugment])
def test_only_the_seed_decides_a_policy_also_in_a_pipeline(policy):
    dataset = tf.data.Dataset.from_tensor_slices(SEEDS).map(lambda seed: policy(LEVELS, seed))
    images = list(dataset.as_numpy_iterator())
    for image, seed in zip(images[:80], SEEDS[:80], strict=True):
        np.testing.assert_array_equal(policy(LEVELS, seed), image)
    assert len({image.tobytes() for image in images}) > 25  # most operations change noise


def test_autoaugment_applies_each_operation_of_a_pair_with_its_chance(monkeypatch):
    """Instead of changing an image, each operation counts itself."""
    monkeypatch.setattr(
        "keras_efficientnet.augmentation.policies.apply_op",
        lambda counts, number, *_, **__: counts + tf.one_hot(number, 2, dtype=tf.int32),
    )
    counts = np.zeros((25, 2))
    for index, pair in enumerate(POLICY_V0):
        numbered = tuple((number, chance, level) for number, (_, chance, level) in enumerate(pair))
        monkeypatch.setattr("keras_efficientnet.augmentation.policies.POLICY_V0", (numbered,))
        counts[index] = sum(autoaugment(tf.zeros(2, tf.int32), seed).numpy() for seed in SEEDS[:40])
    chances = np.array([[operation[1] for operation in pair] for pair in POLICY_V0])
    # 40 draws each: within four standard deviations of a binomial
    assert (np.abs(counts / 40 - chances) <= 4 * np.sqrt(chances * (1 - chances) / 40) + 1e-9).all()


def test_randaugment_draws_every_operation_with_the_same_chance(monkeypatch):
    names = list(OPS)
    monkeypatch.setattr(
        "keras_efficientnet.augmentation.policies.apply_op",
        lambda image, name, *_, **__: image + tf.one_hot(names.index(name), 16, dtype=tf.int32),
    )
    drawn = sum(randaugment(tf.zeros(16, tf.int32), seed, num_layers=3).numpy() for seed in SEEDS[:150])
    assert drawn.sum() == 450
    assert (np.abs(drawn / 450 - 1 / 16) < 4 * np.sqrt(15 / 256 / 450)).all()


@pytest.mark.parametrize("name", ["affine", "autoaugment", "randaugment"])
def test_an_augmentation_maps_floats_to_floats_and_clips_the_overshoot_of_resizing(name):
    image = tf.cast(LEVELS, tf.float32) * 1.2 - 20
    changed = make_augmentation(name)(image, SEEDS[0])
    assert changed.dtype == tf.float32 and changed.shape == image.shape
    if name != "affine":
        assert changed.numpy().min() >= 0 and changed.numpy().max() <= 255
    assert make_augmentation(None) is None


@pytest.mark.parametrize(("official", "num_layers", "expected"), [(False, 1, 200), (True, 1, 55), (True, 2, 200)])
def test_version_and_number_of_layers_reach_the_operations(monkeypatch, official, num_layers, expected):
    """Solarize at level 10: the official threshold of 256 wraps around to 0, which inverts everything."""
    monkeypatch.setattr("keras_efficientnet.augmentation.policies.OPS", {"Solarize": OPS["Solarize"]})
    augment = make_augmentation("randaugment", num_layers=num_layers, magnitude=10, official=official)
    assert (augment(tf.fill((8, 8, 3), 200.0), SEEDS[0]).numpy() == expected).all()


@pytest.mark.slow
def test_a_policy_keeps_at_least_70_percent_of_the_images_per_second(tmp_path):
    """JPEGs of ImageNet's size, 224 pixels, medians of rounds without and with the policy. Needs an idle machine."""
    assert min(bench_augmentation.ratios(tmp_path, rounds=9).values()) >= 0.7
