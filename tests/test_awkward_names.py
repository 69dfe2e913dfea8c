"""Files, folders and classes with awkward names, through every mode of main.py and every exporter."""

import csv
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.exports import WRITERS, load, make_small, write_packages
from support.images import random_images, write_folder
from support.names import AWKWARD
from support.runs import SMALL, run_main

import keras_efficientnet
from keras_efficientnet import export
from keras_efficientnet.datasets import shards
from keras_efficientnet.export import weight_files
from keras_efficientnet.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_network")]

CLASSES = sorted(AWKWARD)  # the order of class folders
OPTIONS = SMALL | {"mode": "train_and_eval", "train_batch_size": 4, "train_steps": 1, "iterations_per_loop": 1}


def test_there_are_sixty():
    assert len(AWKWARD) == len(set(AWKWARD)) >= 60


def run(**options):
    done = run_main(**options)
    assert done.status == 0, done.err
    return done


@pytest.mark.parametrize("name", AWKWARD)
def test_every_mode_of_main_takes_the_name(tmp_path, name):
    """The name is that of the data, of a class, of an image and of the run."""
    data = write_folder(tmp_path / name, [f"train/{name}", "train/other", f"validation/{name}", "validation/other"], 4)
    model_dir = tmp_path / "runs" / name
    options = OPTIONS | {"data_dir": data, "dataset": "folder", "model_dir": model_dir}
    run(**options)
    assert set(RunFolder(model_dir).read_labels()) == {name, "other"}
    run(mode="eval", model_dir=model_dir)
    run(**options | {"mode": "preview"})
    image = next(data.glob("validation/*/*.jpg")).rename(data / f"{name[:90]}.jpg")
    assert run(mode="predict", model_dir=model_dir, images=image).out.splitlines()[0] == str(image)
    with (model_dir / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {name, "other"}
    resumed = run(**options | {"train_steps": 2})
    assert "2 steps" in resumed.out


@pytest.mark.parametrize("name", AWKWARD)
def test_every_exporter_takes_the_name(small, tmp_path, name):
    expected = np.asarray(small(random_images(2)))
    for kind, write in WRITERS.items():
        path = tmp_path / kind / name
        path.parent.mkdir()
        write(small, path)
        found = np.concatenate([np.asarray(load(kind, path)(image[np.newaxis])) for image in random_images(2)])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    export.to_web(small, tmp_path / "web" / name, runtime=write_packages(tmp_path / "packages/node_modules").parent)
    assert (tmp_path / "web" / name / "index.html").is_file()
    for ending in (".keras", ".weights.h5", ".safetensors"):
        weight_files.write(small, tmp_path / f"{name}{ending}")
    loaded = keras_efficientnet.load_model(tmp_path / f"{name}.keras")
    np.testing.assert_array_equal(np.asarray(loaded(random_images(2))), expected)


@pytest.fixture(scope="module")
def small():
    return make_small()


def test_all_names_are_those_of_classes(tmp_path):
    """One run whose classes have all the names: records, training, evaluation, prediction, every export."""
    splits = [f"{split}/{name}" for split in ("train", "validation") for name in CLASSES]
    data, records, model_dir = write_folder(tmp_path / "data", splits, 1), tmp_path / "records", tmp_path / "run"
    shards.write_records(str(data), str(records), processes=1)
    assert (records / "labels.txt").read_text("utf-8").split("\n")[:-1] == CLASSES
    options = OPTIONS | {"eval_batch_size": 8, "export": True}
    for dataset, source in {"folder": data, "records": records}.items():
        given = options | {"dataset": dataset, "data_dir": source, "model_dir": model_dir / dataset}
        run(**given)
        run(**given | {"mode": "preview"})
        assert RunFolder(model_dir / dataset).read_labels() == CLASSES
    folder = model_dir / "folder"
    run(mode="eval", model_dir=folder)
    run(mode="predict", model_dir=folder, images=data / "validation" / CLASSES[0])
    model = keras.saving.load_model(folder / "model.keras")
    with zipfile.ZipFile(folder / "model.tflite") as archive:
        assert archive.read("labels.txt").decode("utf-8").split("\n")[: len(CLASSES)] == CLASSES
    signature = tf.saved_model.load(str(folder / "saved_model")).signatures["image_bytes"]
    image = next(data.glob("validation/*/*.jpg")).read_bytes()
    assert signature(tf.constant([image]))["top_5_labels"][0, 0].numpy().decode("utf-8") in CLASSES
    for kind, write in WRITERS.items():
        write(model, tmp_path / kind, labels=CLASSES)
    packages = write_packages(tmp_path / "packages/node_modules").parent
    export.to_web(model, tmp_path / "web", labels=CLASSES, runtime=packages)
    assert (tmp_path / "web/labels.txt").read_text("utf-8").split("\n")[:-1] == CLASSES
