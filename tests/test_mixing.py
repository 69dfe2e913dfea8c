"""Mixup, CutMix and random erasing, checked by hand arithmetic, NumPy and the moments of the distributions."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from support.runs import SMALL

from keras_efficientnet import training
from keras_efficientnet.augmentation import erasing, make_augmentation, mixing, policies
from keras_efficientnet.augmentation.erasing import random_erasing
from keras_efficientnet.augmentation.mixing import cutmix, make_mixing, mix_batches, mixup, targets_of
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training import loop

pytestmark = pytest.mark.usefixtures("short_network")

BATCH = 6
IMAGES = tf.constant(np.random.RandomState(0).uniform(0, 255, (BATCH, 12, 20, 3)).astype("float32"))
LABELS = tf.range(BATCH)  # each image has a class of its own, so the targets show the shares
TARGETS = tf.eye(BATCH)
SEEDS = [tf.constant([3, number]) for number in range(50)]


def shares(targets):
    """Returns the share of each image itself, read from its targets; the other image has the rest."""
    own = np.diag(targets)
    np.testing.assert_allclose(own + np.diag(np.asarray(targets)[:, ::-1]), 1, atol=1e-6)
    return own


def test_mixup_blends_pixels_in_the_shares_of_the_targets():
    """x = share * a + (1 - share) * b, arXiv 1710.09412. Official code: b is the reversed batch, and share >= 1/2."""
    for seed in SEEDS[:5]:
        images, targets = mixup(IMAGES, TARGETS, seed, alpha=0.8)
        own = shares(targets)
        assert (own >= 0.5).all() and len(set(own.tolist())) == BATCH
        expected = np.stack([own[i] * IMAGES[i] + (1 - own[i]) * IMAGES[BATCH - 1 - i] for i in range(BATCH)])
        np.testing.assert_allclose(images, expected, rtol=1e-5)


def test_mixup_is_linear_by_hand(monkeypatch):
    monkeypatch.setattr(mixing, "_beta", lambda *_: tf.constant([0.25, 0.9]))
    images, targets = mixup(tf.stack([tf.zeros((1, 1, 3)), tf.fill((1, 1, 3), 100.0)]), tf.eye(2), SEEDS[0], alpha=1.0)
    np.testing.assert_allclose(targets, [[0.75, 0.25], [0.1, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(images[:, 0, 0, 0], [25, 90], rtol=1e-6)


@pytest.mark.parametrize("case", [0, 1])
def test_mixup_equals_the_official_code(monkeypatch, golden, case):
    """imagenet_input.mixup of tensorflow/tpu, with the random numbers that it drew."""
    run = golden("training")["mixup"][case]
    monkeypatch.setattr(mixing, "_beta", lambda *_: tf.constant(run["sampled_lambda"]))
    images, targets = mixup(tf.constant(run["images"]), tf.constant(run["labels"]), SEEDS[0], alpha=0.2)
    np.testing.assert_allclose(images, run["images_out"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(targets, run["labels_out"], rtol=1e-6)


def test_cutmix_replaces_one_box_and_targets_have_its_share_of_the_pixels():
    boxes = 0
    for seed in SEEDS:
        images, targets = cutmix(IMAGES, TARGETS, seed, alpha=1.0)
        own = shares(targets)
        for i in range(BATCH):
            mine = (images[i].numpy() == IMAGES[i].numpy()).all(axis=-1)
            theirs = (images[i].numpy() == IMAGES[BATCH - 1 - i].numpy()).all(axis=-1)
            assert (mine ^ theirs).all()
            assert own[i] == np.float32(mine.mean())
            rows, columns = theirs.any(axis=1), theirs.any(axis=0)
            np.testing.assert_array_equal(theirs, rows[:, np.newaxis] & columns)
            assert (np.diff(rows.astype(int)) != 0).sum() <= 2 and (np.diff(columns.astype(int)) != 0).sum() <= 2
            boxes += theirs.any() and not theirs.all()
    assert boxes > 0.7 * BATCH * len(SEEDS)


def test_cutmix_box_equals_the_authors_code(monkeypatch):
    """`rand_bbox` of github.com/clovaai/CutMix-PyTorch by hand: share 0.75 gives half of each side, around (9, 15)."""
    monkeypatch.setattr(mixing, "_beta", lambda *_: tf.fill((BATCH,), 0.75))
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_: tf.fill((2, BATCH), 0.75))
    images, targets = cutmix(IMAGES, TARGETS, SEEDS[0], alpha=1.0)
    # height 12: 9 - 3 to 9 + 3; width 20: 15 - 5 to 15 + 5
    np.testing.assert_array_equal(images[0, 6:12, 10:20], IMAGES[5, 6:12, 10:20])
    np.testing.assert_array_equal(images[0, :6], IMAGES[0, :6])
    np.testing.assert_allclose(targets[0], [0.75, 0, 0, 0, 0, 0.25])
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_: tf.fill((2, BATCH), 0.99))
    _, targets = cutmix(IMAGES, TARGETS, SEEDS[0], alpha=1.0)
    assert float(targets[0, 5]) == pytest.approx(4 * 6 / 240)  # rows 8 to 11 of 11 - 3 to 11 + 3, columns 14 to 19


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_shares_have_the_moments_of_a_beta_distribution(alpha):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)), fourth central moment 3 / (16 (2 alpha + 1) (2 alpha + 3))."""
    values = mixing._beta(alpha, (200_000,), SEEDS[0]).numpy().astype("float64") - 0.5
    variance, fourth = 1 / (4 * (2 * alpha + 1)), 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert abs(values.mean()) < 5 * np.sqrt(variance / len(values))
    assert abs((values**2).mean() - variance) < 5 * np.sqrt((fourth - variance**2) / len(values))
    assert np.abs(values).max() <= 0.5 and np.isfinite(values).all()


def test_targets_of_labels_are_smoothed_by_hand():
    smooth = targets_of(tf.constant([1, 0]), 4, 0.2)
    np.testing.assert_allclose(smooth, [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)
    mixed = targets_of(tf.constant([[0.5, 0.5, 0, 0]]), 4, 0.2)
    np.testing.assert_allclose(mixed, [[0.45, 0.45, 0.05, 0.05]], rtol=1e-6)


def is_cutmix(images):
    """Returns whether each pixel comes from one of the two images, unblended."""
    return bool(((images == IMAGES) | (images == IMAGES[::-1])).numpy().all())


@pytest.mark.parametrize("alphas", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_only_its_number_decides_how_a_batch_is_mixed_also_in_a_resumed_pipeline(alphas):
    mix = make_mixing(*alphas, BATCH)
    batches = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat(40)
    seed = tf.constant([8, 0])
    uninterrupted = list(mix_batches(batches, mix, seed, first=0))
    later = list(mix_batches(batches.take(9), mix, seed, first=31))
    for number in range(31, 40):
        eager = mix(IMAGES, LABELS, tf.random.fold_in(seed, tf.constant(number, tf.int64)))
        for one, other, direct in zip(uninterrupted[number], later[number - 31], eager, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(one, direct, rtol=1e-5)
    assert len({images.numpy().tobytes() for images, _ in uninterrupted}) == 40
    kinds = sum(is_cutmix(images) for images, _ in uninterrupted)
    assert kinds == (0 if not alphas[1] else 40 if not alphas[0] else pytest.approx(20, abs=13))


def test_without_alphas_the_pipeline_is_unchanged():
    batches = tf.data.Dataset.from_tensors((IMAGES, LABELS))
    assert make_mixing(0.0, 0.0, BATCH) is None
    assert mix_batches(batches, None, SEEDS[0], first=0) is batches


def test_mixing_batches_of_one_image_is_an_error():
    single = tf.data.Dataset.from_tensors((IMAGES[:1], LABELS[:1]))
    with pytest.raises(ValueError, match="need at least 2 images on each replica"):
        mix_batches(single, make_mixing(0.2, 0.0, 4), SEEDS[0], first=0)


MIXED = SMALL | {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "random_erasing": 0.5}


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_resumed_run_has_the_batches_of_an_uninterrupted_one(replicas):
    config = make_config(num_replicas=replicas, **MIXED)
    strategy = loop.make_strategy(config)
    data = make_datasets(config, TINY._replace(resolution=32))

    def batches(step, count):
        iterator = iter(loop.make_batches(config, strategy, data, step))
        pairs = [next(iterator) for _ in range(count)]
        local = [[np.array(strategy.experimental_local_results(part)) for part in pair] for pair in pairs]
        return [[np.concatenate(part) if part.ndim > 2 else part for part in pair] for pair in local]

    uninterrupted, resumed = batches(0, 7), batches(4, 3)
    for pair, again in zip(uninterrupted[4:], resumed, strict=True):
        for part, same in zip(pair, again, strict=True):
            np.testing.assert_array_equal(part, same)
    targets = np.concatenate([pair[1].reshape(-1, 10) for pair in uninterrupted])
    assert targets.dtype == np.float32 and 20 < ((targets > 0).sum(axis=1) == 2).sum()
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


def test_a_run_with_mixup_cutmix_and_erasing_trains(tmp_path):
    config = make_config(model_dir=str(tmp_path), mode="train", train_steps=3, **MIXED)
    assert training.run(config)["steps"] == 3


GREY = tf.fill((40, 60, 3), 7.0)


def boxes(chance, count=300):
    """Returns (top, left, height, width, noise) of the rectangle in each changed image. All else must be equal."""
    found = []
    for number in range(count):
        image = random_erasing(GREY, tf.constant([1, number]), chance).numpy()
        changed = (image != 7).any(axis=-1)
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (inside != 7).all() and changed.sum() == len(rows) * len(columns) == inside.size // 3
            found.append((rows[0], columns[0], len(rows), len(columns), inside))
    return found


def test_erasing_changes_images_with_its_chance():
    assert not boxes(0.0, 20)
    assert abs(len(boxes(0.3)) / 300 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 300)


def test_erased_rectangles_have_the_areas_ratios_and_noise_of_timm():
    """timm, random_erasing.py: area 0.02 to 1/3, ratio 0.3 to 1 / 0.3 with a uniform logarithm, normal noise."""
    found = boxes(1.0)
    assert len(found) == 300
    height, width = (np.array([box[index] for box in found]) for index in (2, 3))
    areas, logs = height * width / 2400, np.log(height / width)
    # sides are rounded to pixels: half a pixel is an eighth of the smallest side, 4
    assert 0.02 * 0.85 <= areas.min() < 0.05 and 0.28 < areas.max() <= 1 / 3 * 1.05
    assert abs(logs.min() + 1.2) < 0.25 and abs(logs.max() - 1.2) < 0.25
    assert {box[0] for box in found} >= set(range(30)) and {box[1] for box in found} >= set(range(40))
    assert any(box[0] + box[2] == 40 for box in found) and any(box[1] + box[3] == 60 for box in found)
    noise = np.concatenate([box[4].reshape(-1, 3) for box in found])
    noise = (noise - [123.675, 116.28, 103.53]) / [
        58.395,
        57.12,
        57.375,
    ]  # ImageNet's statistics, with which a network normalises
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 / np.sqrt(len(noise)))
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=5 / np.sqrt(2 * len(noise)))


def test_nothing_is_erased_if_no_rectangle_is_smaller_than_the_image(monkeypatch):
    monkeypatch.setattr(erasing, "AREA", (1.0, 1.0))
    monkeypatch.setattr(erasing, "RATIO", (40 / 60, 40 / 60))  # as large as the image
    assert not boxes(1.0, 10)


def test_erasing_changes_training_images_and_no_labels():
    def first(chance):
        config = make_config(random_erasing=chance, augment_name=None)
        return next(make_datasets(config, TINY._replace(resolution=32)).train(0).batch(40).as_numpy_iterator())

    (plain, labels), (erased, same_labels) = first(0.0), first(0.5)
    np.testing.assert_array_equal(labels, same_labels)
    changed = (plain != erased).any(axis=(1, 2, 3)).mean()
    assert abs(changed - 0.5) < 4 * np.sqrt(0.25 / 40)


@pytest.mark.parametrize("name", [None, "affine", "autoaugment"])
def test_erasing_follows_the_policy_and_does_not_change_it(name):
    image = tf.constant(np.random.RandomState(2).uniform(0, 255, (32, 32, 3)).astype("float32"))
    plain, erased = make_augmentation(name), make_augmentation(name, erasing=1.0)
    pipeline = tf.data.Dataset.from_tensor_slices(SEEDS[:6]).map(lambda seed: erased(image, seed))
    for seed, in_pipeline in zip(SEEDS[:6], pipeline, strict=True):
        before = plain(image, seed) if plain else image
        after = erased(image, seed)
        same = (before == after).numpy().all(axis=-1).mean()
        assert 0.6 < same < 0.99
        np.testing.assert_allclose(in_pipeline, after, atol=1e-2)
    assert policies.random_erasing is random_erasing
