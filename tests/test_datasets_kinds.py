"""Kinds of data: class folders, TensorFlow Datasets, held-out files, the background class."""

import numpy as np
import pytest
from conftest import TINY
from support.images import encoded, jpeg, record, smooth, write_folder, write_records

from keras_efficientnet.datasets import catalog, class_folders, make_datasets, transfer
from keras_efficientnet.datasets.damage import report_broken
from keras_efficientnet.recipes import make_config

SMALL = TINY._replace(resolution=40)


def evaluate(folder, **given):
    options = {"data_dir": str(folder), "recipe": "official", "crop_fraction": 1.0, "mode": "eval"} | given
    data = make_datasets(make_config(**options), SMALL)
    images, labels = next(data.valid.batch(100).as_numpy_iterator())
    return data, images, labels.tolist()


def central(height, width, seed):
    return smooth(height, width, seed)[:, (width - height) // 2 :][:, :height]


def test_folder_with_train_and_validation_gives_images_and_class_names(tmp_path):
    write_folder(tmp_path / "train", ["bee", "ant", "cow"], 4)
    write_folder(tmp_path / "val", ["cow", "ant"], 2)
    data, images, labels = evaluate(tmp_path, dataset="folder", mode="train_and_eval")
    assert data.class_names == ("ant", "bee", "cow") and data.classes == 3
    assert labels == [0, 0, 2, 2] and (data.train_images, data.valid_images) == (12, 4)
    for image, seed in zip(images, (2, 3, 0, 1), strict=True):
        assert np.abs(image - central(40, 48, seed)).mean() < 4
    epoch = next(data.train(0).batch(12).as_numpy_iterator())[1]
    assert sorted(epoch) == [0] * 4 + [1] * 4 + [2] * 4


def test_class_folders_hold_out_every_tenth_image_for_validation(tmp_path):
    write_folder(tmp_path, ["ant", "bee"], 21)
    splits = class_folders.find_splits(str(tmp_path))
    held_out = [f"{name}/{place:03d}.jpg" for name in ("ant", "bee") for place in (9, 19)]
    assert [path.removeprefix(f"{tmp_path}/") for path in splits["validation"].paths] == held_out
    assert len(splits["train"].paths) == 38 and not set(splits["train"].paths) & set(splits["validation"].paths)


def test_class_folders_read_every_image_format_in_upper_and_lower_case(tmp_path):
    folder = tmp_path / "validation/one"
    folder.mkdir(parents=True)
    kinds = {"a.JPG": "JPEG", "b.jpeg": "JPEG", "c.PNG": "PNG", "d.WebP": "WEBP", "e.bmp": "BMP"}
    for name, kind in kinds.items():
        (folder / name).write_bytes(encoded("RGB", kind))
    for name in ("notes.txt", ".hidden.jpg"):
        (folder / name).write_text("no image")
    write_folder(tmp_path / "train", ["one", "two"], 1)
    _, images, labels = evaluate(tmp_path, dataset="folder")
    assert labels == [0] * 5
    for image in images:
        assert np.abs(image - central(40, 48, 1)).mean() < 5


def test_broken_image_in_a_folder_is_named(tmp_path):
    write_folder(tmp_path / "train", ["one", "two"], 2)
    write_folder(tmp_path / "validation", ["one", "two"], 2)
    (tmp_path / "validation/two/000.jpg").write_bytes(jpeg()[:500])
    data = make_datasets(make_config(data_dir=str(tmp_path), dataset="folder", mode="eval"), SMALL)
    with pytest.raises(ValueError, match="validation/two/000.jpg holds no image that can be decoded"):
        with report_broken(data.explain_valid):
            list(data.valid)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda folder: None, {}, "has no class folders"),
        (lambda folder: (folder / "train/a").mkdir(parents=True), {}, "train/a has no image file. Expected .bmp"),
        (lambda folder: write_folder(folder, ["a", "b"], 2), {}, "No class has 10 images, so none can be held out"),
        (lambda folder: write_folder(folder / "val", ["a"], 1), {}, "no folder train"),
        (
            lambda folder: (write_folder(folder / "train", ["a"], 1), write_folder(folder / "test", ["b"], 1)),
            {},
            "has classes that the training data lack: b",
        ),
        (
            lambda folder: write_folder(folder, ["a", "b"], 10),
            {"num_label_classes": 3},
            "must match the 2 class names of the data. Received: 3",
        ),
        (lambda folder: None, {"holdout_shards": 1}, "`holdout_shards` needs records"),
        (lambda folder: None, {"dataset": "sample"}, "`dataset=sample` is part of the package"),
        (lambda folder: None, {"data_dir": None}, "`dataset=folder` needs a folder"),
        (lambda folder: None, {"data_dir": "/nowhere"}, "There is no folder '/nowhere'"),
    ],
)
def test_invalid_folder_is_an_error_that_explains_it(tmp_path, make, options, message):
    make(tmp_path)
    config = make_config(**({"data_dir": str(tmp_path), "dataset": "folder"} | options))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_datasets(config, SMALL)


def count_classes(folder):
    files = class_folders.find_splits(str(folder))["train"]
    return {name: files.labels.count(label) for label, name in enumerate(files.names)}


@pytest.mark.parametrize("word", ["train", "training", "validation", "valid", "val", "test", "Train", "TEST"])
def test_class_may_be_called_like_a_split(tmp_path, word):
    write_folder(tmp_path, ["bus", "car", word], 10)
    assert count_classes(tmp_path) == {"bus": 9, "car": 9, word: 9}
    write_folder(tmp_path / word, ["more"], 1)  # images beside a folder: still a class
    assert count_classes(tmp_path) == {"bus": 9, "car": 9, word: 9}


def test_a_stray_image_and_a_folder_of_samples_do_not_make_train_a_class(tmp_path):
    write_folder(tmp_path / "train", ["ant", "bee"], 2)
    write_folder(tmp_path / "val", ["ant", "bee"], 1)
    write_folder(tmp_path, ["samples"], 3)
    (tmp_path / "train/stray.jpg").write_bytes(jpeg())
    assert count_classes(tmp_path) == {"ant": 2, "bee": 2}


def test_folders_are_found_where_names_of_folders_end_without_a_slash(tmp_path):
    write_folder(tmp_path, ["ant", "bee.v2"], 10)
    assert count_classes(f"file://{tmp_path}") == {"ant": 9, "bee.v2": 9}


def test_classes_may_be_called_train_and_test(tmp_path):
    write_folder(tmp_path, ["train", "test"], 10)
    assert count_classes(tmp_path) == {"train": 9, "test": 9}


@pytest.mark.parametrize(("train", "validation"), [("Train", "Val"), ("TRAINING", "TEST"), ("train", "Validation")])
def test_splits_are_found_in_upper_and_lower_case(tmp_path, train, validation):
    write_folder(tmp_path / train, ["ant", "bee"], 2)
    write_folder(tmp_path / validation, ["ant", "bee"], 1)
    splits = class_folders.find_splits(str(tmp_path))
    assert (len(splits["train"].paths), len(splits["validation"].paths)) == (4, 2)


def test_two_splits_that_differ_in_case_are_refused(tmp_path):
    for name in ("train", "val", "Val"):
        write_folder(tmp_path / name, ["ant", "bee"], 1)
    with pytest.raises(ValueError, match="Val and .*val differ in case only"):
        class_folders.find_splits(str(tmp_path))


def test_images_that_are_not_read_are_counted_by_reason(tmp_path, caplog):
    write_folder(tmp_path / "train", ["ant", "bee"], 2)
    write_folder(tmp_path / "val", ["ant", "bee"], 1)
    write_folder(tmp_path / "train/ant/more", ["deep"], 3)
    write_folder(tmp_path / "train/.cache", ["x"], 4)
    write_folder(tmp_path / "train/bee", ["folder.jpg"], 1)
    write_folder(tmp_path / "extra", ["cow"], 5)
    for name in "ant/1.heic ant/2.heic bee/3.tif ant/.4.jpg 5.png ant/notes ant/Thumbs.db ant/._6.jpg".split():
        (tmp_path / "train" / name).write_bytes(b"")
    for number, ending in enumerate((".jfif", ".jpe", ".JFIF")):
        (tmp_path / f"train/bee/{number}{ending}").write_bytes(jpeg())
    assert count_classes(tmp_path) == {"ant": 2, "bee": 5}
    beside, inside = caplog.messages
    assert beside.endswith("5 images beside train, ... are not read: in extra.")
    assert "train: 7 images are read. Not read are 14 files: " in inside
    reasons = ["4 in subfolders of classes", "4 in folders whose names begin with a dot", "2 .heic", "1 .tif"]
    reasons += ["1 without an ending", "1 whose names begin with a dot", "1 beside the class folders"]
    assert all(reason in inside for reason in reasons)


def test_folder_without_other_files_is_read_without_a_warning(tmp_path, caplog):
    write_folder(tmp_path, ["ant", "bee"], 10)
    assert count_classes(tmp_path) == {"ant": 9, "bee": 9} and not caplog.messages


def write_one_class(folder):
    write_folder(folder / "train", ["ant"], 2)
    write_folder(folder / "val", ["ant"], 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: write_folder(folder, ["ant"], 5), "data has one class folder, 'ant'. A classifier needs"),
        (write_one_class, "train has one class folder, 'ant'"),
        (
            lambda folder: write_folder(folder.parent, [folder.name], 2),
            "has no class folders.* Not read are 2 files",
        ),
        (lambda folder: write_folder(folder / "ant", ["a", "b"], 2), "ant has no image file.* 4 in subfolders"),
        (lambda folder: write_folder(folder / "a", ["x.jpg"], 1), "a has no image file.* 1 in subfolders of classes"),
    ],
)
def test_folder_with_one_class_or_none_is_explained(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        make_datasets(make_config(data_dir=str(tmp_path / "data"), dataset="folder"), SMALL)


def test_label_file_with_one_class_is_explained(tmp_path):
    write_records(tmp_path / "validation-00000-of-00001", [record(jpeg(), 1)])
    (tmp_path / "labels.txt").write_text("ant\n")
    with pytest.raises(ValueError, match="The data have one class, 'ant'. A classifier needs at least two"):
        evaluate(tmp_path)


def test_folder_in_place_of_an_image_is_named(tmp_path):
    """It takes the place of an image after the images were listed."""
    write_folder(tmp_path, ["ant", "bee"], 20)
    data = make_datasets(make_config(data_dir=str(tmp_path), dataset="folder", mode="eval"), SMALL)
    (tmp_path / "bee/019.jpg").unlink()
    (tmp_path / "bee/019.jpg").mkdir()
    with pytest.raises(ValueError, match="bee/019.jpg cannot be read"), report_broken(data.explain_valid):
        list(data.valid)


def write_train(folder, files, each):
    for number in range(files):
        values = [record(jpeg(seed=number * each + place), 1 + number) for place in range(each)]
        write_records(folder / f"train-{number:05d}-of-{files:05d}", values)


def test_held_out_files_are_evaluated_and_never_trained_on(tmp_path):
    """The label of a record is the number of its file + 1. An `eval_name` with "test" selects validation-*."""
    write_train(tmp_path, files=4, each=2)
    write_records(tmp_path / "validation-00000-of-00001", [record(jpeg(), 9)])
    given = {"holdout_shards": 1, "num_label_classes": 9}
    assert evaluate(tmp_path, **given)[2] == [0, 0]
    assert evaluate(tmp_path, eval_name="minival", **given)[2] == [0, 0]
    assert evaluate(tmp_path, eval_name="test_of_b0", **given)[2] == [8]
    for name in (None, "test_of_b0"):
        data, _, _ = evaluate(tmp_path, eval_name=name, mode="train_and_eval", **given)
        assert data.train_images == 6
        assert set(next(data.train(0).batch(60).as_numpy_iterator())[1]) == {1, 2, 3}


def test_holding_out_all_files_is_an_error(tmp_path):
    write_train(tmp_path, files=2, each=1)
    with pytest.raises(ValueError, match="`holdout_shards` must be below the 2 training files. Received: 2"):
        evaluate(tmp_path, holdout_shards=2, mode="train_and_eval")


def test_with_1001_classes_the_background_keeps_its_label(tmp_path):
    """1001 as in the official code, but without its 1002nd output."""
    write_records(tmp_path / "validation-00000-of-00001", [record(jpeg(), label) for label in (0, 1, 1000)])
    (tmp_path / "labels.txt").write_text("".join(f"class {number}\n" for number in range(1, 1001)))
    data, _, labels = evaluate(tmp_path, num_label_classes=1001)
    assert labels == [0, 1, 1000] and data.classes == 1001
    assert data.class_names[:2] == ("background", "class 1")


def test_number_of_classes_is_1000_by_default(tmp_path):
    write_records(tmp_path / "validation-00000-of-00001", [record(jpeg(), 1000)])
    data, _, labels = evaluate(tmp_path)
    assert (data.classes, data.class_names, labels) == (1000, None, [999])


def make_tfds(folder, splits, name="tiny"):
    """Writes a dataset with TensorFlow Datasets. The label of an image is its seed modulo 2."""
    import tensorflow_datasets as tfds

    def examples(start, count):
        return {f"{seed}": {"image": jpeg(seed=seed), "label": seed % 2} for seed in range(start, start + count)}

    def as_files(rows):
        import io

        return {key: row | {"image": io.BytesIO(row["image"])} for key, row in rows.items()}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"label": tfds.features.ClassLabel(names=["even", "odd"]), "image": tfds.features.Image()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {name: self._generate_examples(*span) for name, span in splits.items()}

        def _generate_examples(self, start, count):
            yield from as_files(examples(start, count)).items()

    Tiny.name = name
    Tiny(data_dir=str(folder)).download_and_prepare()


def seeds_of(images, count):
    """Returns the seeds of images: of the nearest ones by mean distance."""
    known = np.stack([central(40, 48, seed) for seed in range(count)]).astype("float32")
    return [int(np.abs(known - image).mean((1, 2, 3)).argmin()) for image in images]


def test_tensorflow_datasets_give_images_labels_and_class_names(tmp_path):
    tmp_path = tmp_path / "[1], *?"  # any name will do
    make_tfds(tmp_path, {"train": (0, 8), "test": (8, 4)})
    data, images, labels = evaluate(tmp_path, dataset="tiny", mode="train_and_eval")
    assert data.class_names == ("even", "odd") and (data.train_images, data.valid_images) == (8, 4)
    seeds = seeds_of(images, 12)
    assert sorted(seeds) == [8, 9, 10, 11] and labels == [seed % 2 for seed in seeds]
    options = {"random_resized_crop": False, "random_flip": False, "crop_fraction": 1.0, "dataset": "tiny"}
    trained = make_datasets(make_config(data_dir=str(tmp_path), **options), SMALL).train(0)
    images, labels = next(trained.batch(8).as_numpy_iterator())
    seeds = seeds_of(images, 12)
    assert sorted(seeds) == list(range(8)) and labels.tolist() == [seed % 2 for seed in seeds]


def test_tensorflow_datasets_without_validation_are_split_into_disjoint_parts(tmp_path):
    make_tfds(tmp_path, {"train": (0, 20)})
    plain = {"random_resized_crop": False, "random_flip": False}
    data, images, _ = evaluate(tmp_path, dataset="tiny", mode="train_and_eval", **plain)
    trained = seeds_of(next(data.train(0).batch(18).as_numpy_iterator())[0], 20)
    held_out = seeds_of(images, 20)
    assert len(held_out) == 2 and sorted(trained + held_out) == list(range(20))


def test_damaged_file_of_tensorflow_datasets_is_an_error(tmp_path):
    make_tfds(tmp_path, {"train": (0, 8), "test": (8, 4)})
    path = next(tmp_path.glob("tiny/1.0.0/tiny-test.tfrecord*"))
    path.write_bytes(path.read_bytes()[:-100])
    data = make_datasets(make_config(data_dir=str(tmp_path), dataset="tiny", mode="eval"), SMALL)
    with pytest.raises(ValueError, match="tiny/1.0.0, split test, has fewer examples than its metadata state"):
        with report_broken(data.explain_valid):
            list(data.valid)


def test_unknown_dataset_is_an_error_that_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match="`dataset` must be sample, records, folder or a name in tensorflow-datasets"):
        make_datasets(make_config(dataset="no_such_set", data_dir=str(tmp_path)), SMALL)


def test_part_of_a_dataset_of_the_paper_is_an_error(tmp_path):
    """Flowers is trained on two splits: 2,040 images in the paper's table 6."""
    import tensorflow_datasets as tfds

    make_tfds(tmp_path, {"train": (0, 3), "validation": (3, 2), "test": (5, 4)}, name="oxford_flowers102")
    builder = tfds.builder_from_directory(tmp_path / "oxford_flowers102/1.0.0")
    splits = catalog.find_splits(builder)
    images = [catalog.open_split(builder, splits[name]).images for name in ("train", "validation")]
    assert images == [5, 4]
    with pytest.raises(
        ValueError, match="Flowers has 102 classes, 2,040 training images and 6,149 test images.*Received: 2, 5 and 4"
    ):
        transfer.check_transfer(builder.name, 2, images)


def test_dataset_of_the_paper_outside_tensorflow_datasets_is_read_from_a_folder(tmp_path):
    for split, seeds in (("train", (0, 1)), ("test", (2,))):
        for name in ("sparrow", "wren"):
            (tmp_path / split / name).mkdir(parents=True)
            for seed in seeds:
                (tmp_path / split / name / f"{seed}.jpg").write_bytes(jpeg(seed=seed))
    with pytest.raises(ValueError, match="Birdsnap has 500 classes.*Received: 2, 4 and 2."):
        evaluate(tmp_path, dataset="birdsnap", mode="train_and_eval")
    with pytest.raises(ValueError, match="Birdsnap is not in tensorflow-datasets. Set `data_dir`"):
        make_datasets(make_config(dataset="birdsnap"), SMALL)


def test_complete_dataset_of_the_paper_passes():
    transfer.check_transfer("food101", 101, (75_750, 25_250))
    transfer.check_transfer("food101", 101, (0, 25_250))  # mode eval does not read the training split
    transfer.check_transfer("third_party", 3, (1, 1))
    assert sorted(row.classes for row in transfer.TRANSFER.values()) == [10, 37, 100, 100, 101, 102, 196, 500]
