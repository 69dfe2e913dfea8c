"""The embedded sample, and records written here in the official layout."""

import re
import shutil

import make_sample
import numpy as np
import pytest
import tensorflow as tf
from conftest import SAMPLE, TINY
from sklearn.datasets import load_digits

from keras_efficientnet import preprocessing
from keras_efficientnet.augmentation import random_affine
from keras_efficientnet.datasets import make_datasets, pipeline, records
from keras_efficientnet.recipes import make_config

PLAIN = {"augment_name": None, "random_resized_crop": False, "crop_fraction": 1.0, "recipe": "sample"}


def pixels_and_labels(files):
    """Returns uint8 [n, 8, 8] and the digits of the records, in order, read by TensorFlow's own parser."""
    serialized = tf.data.TFRecordDataset([str(file) for file in sorted(files)])
    rows = [records.parse(record) for record in serialized]
    images = np.array([tf.io.decode_png(data).numpy()[..., 0] for data, _ in rows])
    return images, np.array([int(label) for _, label in rows])


def test_sample_is_reproduced_byte_for_byte(tmp_path):
    make_sample.main(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SAMPLE.iterdir() if path.name != "README.md"}


def test_sample_holds_each_digit_of_scikit_learn_once():
    digits = load_digits()
    expected = sorted((label, image.tobytes()) for image, label in zip(digits.images, digits.target, strict=True))
    images, labels = pixels_and_labels(SAMPLE.glob("*-of-*"))
    grey = np.round(images.astype(float) * 16 / 255)
    assert sorted((label, image.tobytes()) for image, label in zip(grey, labels, strict=True)) == expected
    assert len(expected) == 1797
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1_000_000


def test_splits_are_stratified_and_disjoint():
    train, train_labels = pixels_and_labels(SAMPLE.glob("train-*"))
    valid, valid_labels = pixels_and_labels(SAMPLE.glob("validation-*"))
    assert len(train) == 1442 and len(valid) == 355
    np.testing.assert_allclose(np.bincount(valid_labels) / np.bincount(train_labels), 0.246, atol=0.01)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in valid}


def test_validation_images_are_the_digits_in_order():
    data = make_datasets(make_config(), TINY._replace(resolution=8))
    images, labels = next(data.valid.batch(500).as_numpy_iterator())
    expected, digits = pixels_and_labels(SAMPLE.glob("validation-*"))
    np.testing.assert_array_equal(images[..., 0], expected)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    np.testing.assert_array_equal(labels, digits)
    assert data.class_names == tuple("0123456789")


def test_each_epoch_has_every_image_once_in_an_order_of_its_own():
    data = make_datasets(make_config(**PLAIN), TINY._replace(resolution=8))
    images, _ = next(data.train(0).batch(3 * data.train_images).as_numpy_iterator())
    epochs = [[image.tobytes() for image in part] for part in np.split(images, 3)]
    assert len(set(epochs[0])) == data.train_images == 1442
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_records_of_one_file_are_shuffled_anew_in_each_epoch(tmp_path):
    shutil.copy(SAMPLE / "train-00000-of-00004", tmp_path / "train-00000-of-00001")
    data = make_datasets(make_config(data_dir=str(tmp_path), mode="train", **PLAIN), TINY._replace(resolution=8))
    first, second = np.split(next(data.train(0).batch(2 * data.train_images).as_numpy_iterator())[0], 2)
    moved = np.mean([one.tobytes() != other.tobytes() for one, other in zip(first, second, strict=True)])
    assert moved > 0.9


@pytest.mark.parametrize("start", [1, 1441, 1442, 3000])
def test_training_data_resume_at_any_example(start):
    data = make_datasets(make_config(), TINY._replace(resolution=16))
    uninterrupted = next(data.train(0).skip(start).batch(8).as_numpy_iterator())
    resumed = next(data.train(start).batch(8).as_numpy_iterator())
    for expected, value in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(value, expected)


def first_images(**options):
    """Returns the first 8 training images of the sample."""
    data = make_datasets(make_config(**options), TINY._replace(resolution=16))
    return next(data.train(0).batch(8).as_numpy_iterator())[0]


def test_global_seed_changes_nothing():
    expected = first_images()
    for global_seed in (0, 5):
        tf.random.set_seed(global_seed)
        np.testing.assert_array_equal(first_images(), expected)


def test_seed_decides_order_and_pixels():
    images = first_images(seed=3)
    np.testing.assert_array_equal(first_images(seed=3), images)
    assert np.abs(images - first_images(seed=4)).max() > 1


def test_images_are_augmented_anew_in_each_epoch():
    plain, _ = next(
        make_datasets(make_config(**PLAIN), TINY._replace(resolution=16)).train(0).batch(1).as_numpy_iterator()
    )
    data = make_datasets(make_config(), TINY._replace(resolution=16))
    first, again = [next(data.train(0).batch(1).as_numpy_iterator())[0] for _ in range(2)]
    assert np.abs(first - plain).max() > 1
    np.testing.assert_array_equal(first, again)
    seeds = [tf.random.fold_in(tf.random.fold_in(tf.constant([0, 1]), epoch), 0) for epoch in range(2)]
    assert np.abs(random_affine(plain[0], seeds[0]) - random_affine(plain[0], seeds[1])).max() > 1


@pytest.mark.parametrize("images", [5, 2000])
def test_num_train_images_sets_the_length_of_an_epoch(images):
    data = make_datasets(make_config(num_train_images=images, **PLAIN), TINY._replace(resolution=8))
    uninterrupted, _ = next(data.train(0).batch(3 * images).as_numpy_iterator())
    resumed, _ = next(data.train(2 * images - 3).batch(images).as_numpy_iterator())
    np.testing.assert_array_equal(resumed, uninterrupted[2 * images - 3 :][:images])


def broken_copy(folder, change):
    """Copies the sample and changes its second training file."""
    shutil.copytree(SAMPLE, folder, dirs_exist_ok=True)
    path = folder / "train-00001-of-00004"
    path.write_bytes(change(path.read_bytes()))
    return make_config(data_dir=str(folder), **PLAIN)


@pytest.mark.parametrize("size, record", [(1000, 2), (5, 0), (411 + 6, 1)])
def test_file_that_is_cut_off_is_named_before_training(tmp_path, size, record):
    config = broken_copy(tmp_path, lambda data: data[:size])
    with pytest.raises(ValueError, match=rf"train-00001-of-00004 is cut off.*within record {record} "):
        make_datasets(config, TINY._replace(resolution=8))


def test_folder_without_records_is_an_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"No files train-* in {str(tmp_path)!r}")):
        make_datasets(make_config(data_dir=str(tmp_path)), TINY._replace(resolution=8))
    (tmp_path / "train-00000-of-00001").touch()
    with pytest.raises(ValueError, match="hold no records"):
        make_datasets(make_config(data_dir=str(tmp_path), mode="train"), TINY._replace(resolution=8))


def test_number_of_class_names_must_match_num_label_classes():
    with pytest.raises(ValueError, match="`num_label_classes` must match the 10 class names of the data. Received: 12"):
        make_datasets(make_config(num_label_classes=12), TINY._replace(resolution=8))


def test_records_of_imagenet_are_not_counted():
    files = [f"/nowhere/train-{number:05d}-of-01024" for number in range(1024)]
    assert records.count_images("train", files, 1000) == 1_281_167  # Russakovsky et al. 2014, arxiv.org/abs/1409.0575


@pytest.mark.parametrize(
    ("options", "changes"),
    [({}, {"interpolation": "bilinear", "crop_padding": 0}), ({"interpolation": "bilinear", "crop_fraction": 1.0}, {})],
    ids=["network", "options"],
)
def test_network_and_options_decide_crop_and_resizing(options, changes):
    """EfficientNet-Lite and EdgeTPU resize bilinearly; torchvision's B2 does not crop. 8 x 8 digits at 12 pixels."""
    given = {"recipe": "official", "num_label_classes": 10, "mode": "eval", **options}
    data = make_datasets(make_config(**given), TINY._replace(resolution=12, **changes))
    images = next(data.valid.batch(5).as_numpy_iterator())[0]
    pixels, _ = pixels_and_labels(SAMPLE.glob("validation-*"))
    expected = tf.compat.v1.image.resize_bilinear(pixels[:5, ..., None].repeat(3, -1), (12, 12))
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_no_two_images_of_a_run_share_a_seed():
    """Crops, flips and augmentations have seeds of their own. Includes epoch 350 of ImageNet and example 2**32."""
    numbers = [*range(1000), 349 * 1_281_167, 2**32, 2**32 + 999]
    seed_of = pipeline.image_seeds(make_config())
    offsets = np.array([(0, 0), preprocessing.FLIP, pipeline.AUGMENTATION])
    seeds = [tuple(seed_of(number).numpy() + offset) for number in numbers for offset in offsets]
    assert len(set(seeds)) == 3 * len(numbers)
