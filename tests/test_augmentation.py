"""Hand arithmetic on small images."""

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
def test_a_policy_draws_by_its_seed_alone_also_in_a_pipeline(policy):
    dataset = tf.data.Dataset.from_tensor_slices(SEEDS).map(lambda seed: policy(LEVELS, seed))
    images = list(dataset.as_numpy_iterator())
    for image, seed in zip(images[:80], SEEDS[:80], strict=True):
        np.testing.assert_array_equal(policy(LEVELS, seed), image)
    assert len({image.tobytes() for image in images}) > 25  # most operations do something to noise


def test_autoaugment_applies_each_operation_of_a_pair_by_its_chance(monkeypatch):
    """Each counts itself in the place of what it does."""
    monkeypatch.setattr(
        "keras_efficientnet.augmentation.policies.apply_op",
        lambda counts, place, *_, **__: counts + tf.one_hot(place, 2, dtype=tf.int32),
    )
    counts = np.zeros((25, 2))
    for index, pair in enumerate(POLICY_V0):
        numbered = tuple((place, chance, level) for place, (_, chance, level) in enumerate(pair))
        monkeypatch.setattr("keras_efficientnet.augmentation.policies.POLICY_V0", (numbered,))
        counts[index] = sum(autoaugment(tf.zeros(2, tf.int32), seed).numpy() for seed in SEEDS[:40])
    chances = np.array([[operation[1] for operation in pair] for pair in POLICY_V0])
    # of 40 draws each: four deviations of a binomial
    assert (np.abs(counts / 40 - chances) <= 4 * np.sqrt(chances * (1 - chances) / 40) + 1e-9).all()


def test_randaugment_draws_every_operation_alike(monkeypatch):
    names = list(OPS)
    monkeypatch.setattr(
        "keras_efficientnet.augmentation.policies.apply_op",
        lambda image, name, *_, **__: image + tf.one_hot(names.index(name), 16, dtype=tf.int32),
    )
    drawn = sum(randaugment(tf.zeros(16, tf.int32), seed, num_layers=3).numpy() for seed in SEEDS[:150])
    assert drawn.sum() == 450
    assert (np.abs(drawn / 450 - 1 / 16) < 4 * np.sqrt(15 / 256 / 450)).all()


@pytest.mark.parametrize("name", ["affine", "autoaugment", "randaugment"])
def test_an_augmentation_takes_and_gives_floats_and_clips_the_overshoot_of_resizing(name):
    image = tf.cast(LEVELS, tf.float32) * 1.2 - 20
    changed = make_augmentation(name)(image, SEEDS[0])
    assert changed.dtype == tf.float32 and changed.shape == image.shape
    if name != "affine":
        assert changed.numpy().min() >= 0 and changed.numpy().max() <= 255
    assert make_augmentation(None) is None


@pytest.mark.parametrize(("official", "num_layers", "expected"), [(False, 1, 200), (True, 1, 55), (True, 2, 200)])
def test_the_version_and_the_number_of_layers_reach_the_operations(monkeypatch, official, num_layers, expected):
    """Solarize at level 10: the official threshold of 256 begins again at 0, and inverts all."""
    monkeypatch.setattr("keras_efficientnet.augmentation.policies.OPS", {"Solarize": OPS["Solarize"]})
    augment = make_augmentation("randaugment", num_layers=num_layers, magnitude=10, official=official)
    assert (augment(tf.fill((8, 8, 3), 200.0), SEEDS[0]).numpy() == expected).all()


@pytest.mark.slow
def test_a_policy_leaves_seven_tenths_of_the_images_a_second(tmp_path):
    """On JPEGs of ImageNet's size, 224 pixels, by the median of rounds without and with; the machine should be idle."""
    assert min(bench_augmentation.ratios(tmp_path, rounds=9).values()) >= 0.7
