"""The preview sheet: its images equal those that a run evaluates and trains on; main.py writes it."""

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.image import imread
from support.runs import run_main

from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.preprocessing import image_for_evaluation
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training.preview_mode import COLUMNS, ROWS, caption, make_sheet
from keras_efficientnet.training.state import make_variant

SMALL = {"input_image_size": 32, "augment_name": "autoaugment", "random_resized_crop": True, "random_flip": True}


def sheet_of(**options):
    config = make_config(mode="preview", **SMALL | options)
    data = make_datasets(config, make_variant(config))
    return make_sheet(config, data), data


def test_left_column_has_the_evaluation_crops_of_the_training_images():
    sheet, data = sheet_of()
    assert sheet.images.shape == (COLUMNS, ROWS, 32, 32, 3)
    for row, (image, label) in enumerate(data.encoded_images().take(ROWS)):
        expected = image_for_evaluation(image, 32, crop_fraction=1.0, half_pixel_centers=True)  # recipe sample
        np.testing.assert_array_equal(sheet.images[0, row], expected)
        np.testing.assert_array_equal(sheet.targets[:, row], [np.eye(10)[label]] * COLUMNS)


@pytest.mark.parametrize("policy", [pytest.param("autoaugment", marks=pytest.mark.slow), "randaugment", "affine"])
def test_second_column_has_the_first_images_of_training(policy):
    sheet, data = sheet_of(augment_name=policy, random_erasing=0.5)
    images, labels = next(data.train(0).batch(ROWS).as_numpy_iterator())
    np.testing.assert_allclose(sheet.images[1], images, atol=1e-2)
    np.testing.assert_array_equal(sheet.targets[1].argmax(axis=1), labels)


def test_columns_differ_and_depend_on_the_seed():
    sheet, again, other = (sheet_of(seed=seed, mixup_alpha=0.4, cutmix_alpha=1.0)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(sheet.images, again.images)
    np.testing.assert_array_equal(sheet.targets, again.targets)
    assert len({column.tobytes() for column in (*sheet.images, *other.images)}) == 2 * COLUMNS
    assert ((sheet.targets[1:] > 0).sum(axis=-1) == 2).mean() > 0.3 and (sheet.targets[0].max(axis=-1) == 1).all()


def test_caption_names_the_classes_and_their_weights():
    names = ("ant", "a very long name of a beetle", "bee")
    assert caption(np.array([0.0, 0.0, 1.0]), names) == caption(np.array([0.004, 0.0, 0.996]), names) == "bee"
    assert caption(np.array([0.25, 0.75, 0.0]), names) == "a very long name of  75 %\nant 25 %"


def test_main_writes_the_sheet_and_prints_its_path(tmp_path):
    done = run_main(mode="preview", model_dir=tmp_path / "new", cutmix_alpha=1, **SMALL)
    assert done.status == 0, done.err
    path = tmp_path / "new/preview.png"
    assert done.out.splitlines()[-1] == f"Wrote the images as the network will see them: {path}"
    assert [file.name for file in path.parent.iterdir()] == ["preview.png"]
    pixels = imread(path)
    assert pixels.shape[0] > 1000 and pixels.shape[1] > 1000
    assert (pixels[..., :3].mean(axis=-1) < 0.5).mean() > 0.2  # the digits are white on black: the sheet is not blank


def test_a_preview_does_not_change_the_global_seed():
    tf.random.set_seed(11)
    expected = tf.random.uniform(()).numpy()
    tf.random.set_seed(11)
    _, data = sheet_of()
    list(data.encoded_images().take(1))
    assert tf.random.uniform(()).numpy() == expected
