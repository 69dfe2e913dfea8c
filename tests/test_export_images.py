"""Images for calibration and measurement: origin, number, and resizing as in evaluation."""

import keras
import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

from keras_efficientnet import recipes
from keras_efficientnet.export.images import load_images
from keras_efficientnet.files import write_json
from keras_efficientnet.runs import RunFolder


def make(classes=10, size=32, name="mine", shape=None):
    inputs = keras.Input(shape or (size, size, 3))
    outputs = keras.layers.Dense(classes, "softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on the sample, with its options."""
    folder = tmp_path_factory.mktemp("run")
    write_json(folder / "config.json", {"recipe": "sample", "input_image_size": 32})
    return RunFolder(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes, two grey pictures each, whose value tells which picture it is."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "validation"):
        for index, name in enumerate(("ant", "bee", "cow")):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                value = 60 * index + 20 * number + (10 if split == "train" else 0)
                picture = tf.io.encode_png(tf.fill((40, 48, 3), tf.constant(value, tf.uint8)))
                (folder / split / name / f"{number}.png").write_bytes(picture.numpy())
    return folder


def values(images):
    return images.pixels.mean(axis=(1, 2, 3)).round().astype(int).tolist()


def test_the_images_of_a_run_are_its_validation_digits(run):
    """The package holds 355 of scikit-learn's digits out, of each class in the order of the original."""
    images = load_images(make(), str(run.path))  # or the RunFolder itself
    assert images.pixels.shape == (355, 32, 32, 3) and images.pixels.dtype == np.float32
    assert images.origin == f"355 validation images of {run.path}"
    digits = sklearn.datasets.load_digits()
    means = digits.images[digits.target == images.labels[0]].mean(axis=(1, 2))
    assert np.abs(means * 255 / 16 - images.pixels[0].mean()).min() < 1  # it is one of them


def test_calibration_uses_the_first_training_images(run, pictures):
    train, valid = load_images(make(), run, count=8, train=True), load_images(make(), run, count=8)
    assert train.origin == f"8 training images of {run.path}"
    assert len(train.pixels) == len(train.labels) == 8
    assert not any(np.array_equal(one, other) for one in train.pixels for other in valid.pixels)
    images = load_images(make(3), None, str(pictures), train=True)
    assert sorted(values(images)) == [10, 30, 70, 90, 130, 150]
    assert [value // 60 for value in values(images)] == images.labels.tolist()


def test_images_of_class_folders_have_labels(pictures):
    images = load_images(make(3), None, str(pictures))
    assert (values(images), images.labels.tolist()) == ([0, 20, 60, 80, 120, 140], [0, 0, 1, 1, 2, 2])


def test_images_of_files_have_no_labels(pictures):
    images = load_images(make(3), None, f"{pictures}/train/bee, {pictures}/validation/cow/0.png")
    assert (values(images), images.labels, images.origin) == ([70, 90, 120], None, "3 images given")


def test_images_are_cropped_as_in_the_run(tmp_path, run, pictures):
    """Evaluation's crop keeps size / (size + 32) of the shorter side, that of the sample all of it."""
    picture = np.zeros((64, 64, 3), "uint8")
    picture[:8] = 255
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(picture).numpy())
    whole = load_images(make(), run, str(tmp_path / "a.png")).pixels[0]
    centre = load_images(make(), None, str(tmp_path / "a.png")).pixels[0]
    assert whole[0].mean() > 200 and centre.max() == 0
    assert recipes.RECIPES["sample"]["crop_fraction"] == 1.0


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (make(), None, "not in a run folder, whose data could be used. Give `images`"),
        (make(7), "sample", "sample are of 10 classes, mine has 7"),
        (make(shape=(32, 48, 3)), "sample", r"squares of RGB. mine takes \(32, 48, 3\)"),
        (make(shape=(32, 32, 1)), "sample", r"squares of RGB. mine takes \(32, 32, 1\)"),
    ],
)
def test_images_that_do_not_match_the_model_are_refused(model, source, message):
    with pytest.raises(ValueError, match=message):
        load_images(model, None, source)


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="a.png is not a valid BMP, GIF, JPEG, PNG or WebP image. Leave it out."):
        load_images(make(), None, str(tmp_path / "a.png"))
    with pytest.raises(FileNotFoundError, match="No image files at .*nowhere"):
        load_images(make(), None, str(tmp_path / "nowhere"))
