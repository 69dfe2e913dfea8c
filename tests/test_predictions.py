"""The steps before and after a network: `preprocess_input`, `decode_predictions`, and mode predict on image files."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.reference import fill, reference_images
from support.runs import SMALL, run_main

from keras_efficientnet import datasets, models, training
from keras_efficientnet.evaluation.predictions import find_images, predict_files
from keras_efficientnet.recipes import make_config

pytestmark = pytest.mark.usefixtures("short_network")

SAMPLE = Path(datasets.__file__).parents[1] / "data/sample"

PANDA = ("n02510455", "giant_panda")  # class 388 of ILSVRC 2012; wordnet.princeton.edu


# (0 - mean) / deviation and (1 - mean) / deviation of torchvision.transforms' ImageNet, red, green, blue; by hand
@pytest.mark.parametrize(
    ("pixel", "expected"), [(0, [-2.117904, -2.035714, -1.804444]), (255, [2.248908, 2.428571, 2.64])]
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_preprocess_input_normalizes_with_the_statistics_of_imagenet(pixel, expected, dtype):
    images = np.full((2, 1, 1, 3), pixel, dtype)
    for result in (models.preprocess_input(images), models.preprocess_input(tf.constant(images)).numpy()):
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, np.broadcast_to(expected, (2, 1, 1, 3)), rtol=1e-5)


@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensor"])
def test_preprocess_input_equals_the_preprocessing_inside_the_network(tiny, convert):
    images = reference_images(2, 32, 32, seed=1)
    inside = fill(models.make_model(tiny, classes=10))
    outside = fill(models.make_model(tiny, classes=10, include_preprocessing=False))
    expected = inside(images, training=False).numpy()
    np.testing.assert_allclose(outside(models.preprocess_input(convert(images))), expected, rtol=0, atol=2e-6)
    assert np.abs(outside(images) - expected).max() > 0.1


def test_preprocess_input_does_not_change_its_argument_and_accepts_one_image():
    image = reference_images(1, 4, 4)[0]
    before = image.copy()
    assert models.preprocess_input(image, "tf_efficientnet_b3").shape == (4, 4, 3)
    np.testing.assert_array_equal(image, before)


def test_preprocess_input_names_invalid_arguments():
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
def test_decode_predictions_returns_the_most_likely_class_first(convert):
    scores = np.zeros((2, 1000), "float32")
    scores[0, [388, 0, 999]] = [0.5, 0.25, 0.125]
    scores[1, [7, 388]] = [0.75, 0.25]
    first, second = models.decode_predictions(convert(scores), top=2)
    assert [(row[0], row[2]) for row in first] == [("n02510455", 0.5), ("n01440764", 0.25)]
    assert [(row[0], row[2]) for row in second] == [("n01514668", 0.75), ("n02510455", 0.25)]  # 7 is the cock
    assert all(type(row[2]) is float for row in first)


def test_decode_predictions_returns_five_classes_by_default():
    assert [len(rows) for rows in models.decode_predictions(np.random.default_rng(0).random((3, 1000)))] == [5, 5, 5]


def test_decode_predictions_names_the_background_as_the_first_of_1001_classes():
    scores = np.zeros((1, 1001), "float32")
    scores[0, [0, 389, 1]] = [0.5, 0.25, 0.125]  # the panda is class 388 of 1000
    first, second, third = models.decode_predictions(scores, top=3)[0]
    assert first == ("background", "background", 0.5)
    assert [(row[0], row[2]) for row in (second, third)] == [("n02510455", 0.25), ("n01440764", 0.125)]


@pytest.mark.parametrize("shape", [(1, 10), (1000,), (1, 1, 1000), (1, 1002), (1, 21843)])
def test_decode_predictions_names_the_shapes_it_accepts(shape):
    with pytest.raises(
        ValueError, match=r"must be \[batch, 1000\].* or \[batch, 1001\] with the background.*shape=\(1"
    ):
        models.decode_predictions(np.zeros(shape))


def write_image(path, colour, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(np.tile(np.uint8(colour), (size, size, 1))).numpy())
    return str(path)


def by_colour(pixels):
    """Classifies into red, green and blue, by the fraction of each in the light of an image."""
    light = np.asarray(pixels).sum(axis=(1, 2))
    return light / light.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_each_file_gets_its_classes_in_order_and_invalid_files_do_not_stop_the_others(tmp_path, batch):
    complete = write_image(tmp_path / "complete.png", (0, 0, 255), 64)
    (tmp_path / "cut.png").write_bytes(Path(complete).read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    names = ["cut.png", "red.png", "text.jpg", "blue.png", "empty.jpg", "absent.png"]
    files = [str(tmp_path / name) for name in names]
    write_image(tmp_path / "red.png", (100, 60, 40))
    write_image(tmp_path / "blue.png", (0, 50, 200))

    def read(data):
        return tf.cast(tf.io.decode_image(data), tf.float32)

    found = list(predict_files(files, read, by_colour, ("R", "G", "B"), top=2, batch=batch))
    assert [prediction.file for prediction in found] == files
    assert found[1].top == (("R", pytest.approx(0.5)), ("G", pytest.approx(0.3)))
    assert found[3].top == (("B", pytest.approx(0.8)), ("G", pytest.approx(0.2)))
    assert [prediction.fault is None for prediction in found] == [False, True, False, True, False, False]
    assert found[2].fault == "cannot be decoded as BMP, GIF, JPEG, PNG or WebP"
    assert found[5].fault == "cannot be read: No such file or directory"


def test_images_are_files_folders_and_patterns(tmp_path):
    names = ("a/2.png", "a/1.JPG", "a/inner/3.png", "b/4.gif", "b/notes.txt", "a/5.webp")
    one, two, three, four, notes, five = (str(tmp_path / name) for name in ("a/1.JPG", "a/2.png", *names[2:]))
    for name in names:
        write_image(tmp_path / name, (0, 0, 0))
    assert find_images(f"{tmp_path}/a") == [one, two, five]
    assert find_images(f"{two}, {tmp_path}/b,{tmp_path}/a") == [two, four, one, five]
    assert find_images(f"{tmp_path}/**/*.png") == [two, three]
    assert find_images(notes) == [notes]  # a file that is named is read whatever its ending
    for nothing in ("b/*.png", "c", "c.png"):
        with pytest.raises(FileNotFoundError, match="No image files at '.*/(b/.*png|c|c.png)'"):
            find_images(f"{tmp_path}/a,{tmp_path}/{nothing}")


def sample_images(folder):
    """Writes the validation digits to files with their class in their name."""
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string),
        "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    }
    for number, record in enumerate(tf.data.TFRecordDataset(str(SAMPLE / "validation-00000-of-00001"))):
        example = tf.io.parse_single_example(record, features)
        digit = int(example["image/class/label"]) - 1  # in the records 0 is the background
        (folder / f"{number:03}_{digit}.png").write_bytes(example["image/encoded"].numpy())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of a small network, with its validation digits as files; and its results."""
    folder = tmp_path_factory.mktemp("predictions") / "exp [1], *?%é"  # any name will do
    (folder / "digits").mkdir(parents=True)
    sample_images(folder / "digits")
    options = SMALL | {"train_batch_size": 32, "moving_average_decay": 0.9, "export": True}
    options |= {"base_learning_rate": 0.1, "lr_warmup_epochs": 0.0}
    return folder, training.run(make_config(model_dir=str(folder / "run"), train_steps=40, **options))


def test_files_are_classified_as_in_evaluation(trained):
    """All options come from the config.json of the run: size, crop and network are not the defaults."""
    folder, results = trained
    found = training.predict(make_config(mode="predict", model_dir=str(folder / "run"), images=str(folder / "digits")))
    assert len(found) == 355
    right = [prediction.top[0][0] == Path(prediction.file).stem[-1] for prediction in found]
    assert np.mean(right) == pytest.approx(results["model"]["top_1_accuracy"])
    in_top_5 = [Path(prediction.file).stem[-1] in dict(prediction.top) for prediction in found]
    assert np.mean(in_top_5) == pytest.approx(results["model"]["top_5_accuracy"])
    assert len({prediction.top[0] for prediction in found}) > 100  # the network does not ignore its input
    with (folder / "run/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 355 * 5 and rows[4]["rank"] == "5"
    assert (rows[5]["file"], rows[5]["class"]) == (found[1].file, found[1].top[0][0])
    assert float(rows[5]["probability"]) == pytest.approx(found[1].top[0][1], abs=1e-6)


def test_without_checkpoints_the_exported_model_predicts_the_same(trained, tmp_path):
    folder, _ = trained
    run = shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (run / "labels.txt").write_text("".join(f"digit {number}\n" for number in range(10)))
    images = str(folder / "digits/00*.png")
    exported = training.predict(make_config(mode="predict", model_dir=str(run), images=images))
    expected = training.predict(make_config(mode="predict", model_dir=str(folder / "run"), images=images))
    assert len(exported) == 10
    for one, other in zip(exported, expected, strict=True):
        assert [(f"digit {name}", pytest.approx(value, abs=1e-5)) for name, value in other.top] == list(one.top)
    (run / "labels.txt").write_text("one\n")
    with pytest.raises(ValueError, match="names 1 classes, the network has 10"):
        training.predict(make_config(mode="predict", model_dir=str(run), images=images))


def test_main_prints_five_classes_for_each_image_and_names_the_invalid_files(trained):
    folder, _ = trained
    bad = folder / "bad.png"
    bad.write_text("no image")
    good = sorted(str(path) for path in (folder / "digits").glob("00[01]_*.png"))
    done = run_main(mode="predict", model_dir=folder / "run", images=f"{good[0]},{bad},{good[1]}")
    assert done.status == 1
    assert done.err.splitlines()[-1] == f"main.py: {bad} cannot be decoded as BMP, GIF, JPEG, PNG or WebP"
    lines = done.out.splitlines()
    assert (lines[0], lines[6], len(lines)) == (good[0], good[1], 12)
    ranks, percents, names = zip(*(line.split() for line in lines[1:6]), strict=True)
    assert ranks == ("1", "2", "3", "4", "5") and len(set(names)) == 5 and set(names) <= set("0123456789")
    shares = [float(percent.rstrip("%")) for percent in percents]
    assert shares == sorted(shares, reverse=True) and 20 < sum(shares) <= 100


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "predict"}, "`images` must be given together. Received: mode=predict, images=None"),
        ({"images": "x.png"}, "must be given together. Received: mode=train_and_eval, images=x.png"),
        ({"mode": "predict", "images": "/nowhere"}, "No image files at '/nowhere'"),
        ({"mode": "predict", "images": __file__, "model_dir": "/nowhere"}, "neither a checkpoint nor a model.keras"),
    ],
    ids=["no_images", "no_mode", "no_file", "no_run"],
)
def test_invalid_options_are_named(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        training.predict(make_config(**options))


WRONG_TYPES = ['{"train_steps": "9"}', '{"seed": null}', '{"recipe": []}', '{"crop_fraction": {}}', '{"optimizer": 1}']


@pytest.mark.parametrize("content", ['{"train_steps":', "[]", "\0\0", "", *WRONG_TYPES])
def test_broken_options_of_a_run_are_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is incomplete: .* Copy config.json again"):
        make_config(mode="eval", model_dir=str(tmp_path))
