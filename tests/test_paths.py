"""Paths are taken literally, whatever characters they have, and `~` is the home of the user."""

import os
import tempfile
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from conftest import ROOT
from support.names import AWKWARD
from support.scripts import run

from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.datasets.records import find_files
from keras_efficientnet.evaluation.predictions import find_images
from keras_efficientnet.paths import split_paths, without_wildcards
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder, find_run
from keras_efficientnet.runtimes.networks import load_saved_model


@pytest.mark.parametrize("name", AWKWARD)
def test_checkpoints_are_written_found_read_and_removed_in_any_folder(tmp_path, name):
    value = tf.Variable(0)
    checkpoint, folder = tf.train.Checkpoint(value=value), CheckpointFolder(tmp_path / name)
    for step in (2, 4, 6):
        value.assign(step)
        folder.save(step, checkpoint.write, keep=2)
    found = {path.name for path in folder.path.iterdir()}
    parts = ("data-00000-of-00001", "index")
    assert found == {"checkpoint", *(f"ckpt-{step}.{part}" for step in (4, 6) for part in parts)}
    value.assign(0)
    with without_wildcards(folder.recover()) as path:
        checkpoint.restore(path)
    assert value.numpy() == 6
    assert list(folder.wait(timeout=0)) == [str(folder.path / "ckpt-6")]


def test_an_address_is_passed_on_as_it_is():
    for address in ("gs://bucket/ckpt-1", "gs://bucket/a[1]/ckpt-1"):
        with without_wildcards(address) as plain:
            assert plain == address


def test_a_saved_model_is_read_from_any_folder(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inputs))
    model.export(tmp_path / "a [1] *", verbose=False)
    assert load_saved_model(tmp_path / "a [1] *")(tf.ones((1, 3)).numpy()).tolist() == [[3, 3]]


def test_files_whose_names_have_wildcards_get_other_names_only_if_they_must(tmp_path):
    for name in ("a.index", "a[1].index", "a[1].data", "a[1]b.data", "a1.index"):
        (tmp_path / name).write_text(name)
    with without_wildcards(tmp_path / "a") as path:
        assert path == str(tmp_path / "a")
    with without_wildcards(tmp_path / "a[1]") as path:
        assert {each.read_text() for each in Path(path).parent.iterdir()} == {"a[1].index", "a[1].data"}
        assert tf.io.gfile.glob(f"{path}.*") == [f"{path}.data", f"{path}.index"]
    assert not os.path.exists(os.path.dirname(path))


def test_a_path_that_tensorflow_cannot_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "[tmp]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[tmp]"))
    with pytest.raises(OSError, match=r"TensorFlow cannot read .*/a\*: it takes the characters .* Rename the folder"):
        with without_wildcards(tmp_path / "a*"):
            pass


@pytest.mark.parametrize("name", [name for name in AWKWARD if name[0] != "-"])
def test_an_image_that_exists_is_taken_before_a_comma_and_a_pattern(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    image, other = tmp_path / name / f"{name}.png", tmp_path / name / "other.png"
    image.touch(), other.touch()
    expected = [str(image), str(other)]
    assert find_images(f"{image},{other}") == find_images(f"{image}, {other}") == expected
    assert set(find_images(str(tmp_path / name))) == set(find_images(f"{tmp_path / name}/*.png")) == set(expected)
    assert set(find_images(f"{tmp_path / name}/*.png,{tmp_path / name}/**/o*.png")) == set(expected)
    monkeypatch.chdir(tmp_path / name)
    assert find_images(f"{name}.png,o*.png") == [f"{name}.png", "other.png"]


def test_lists_of_paths_that_do_not_exist_are_separated_at_their_commas(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert split_paths("~/a.png, ~/b [1]/*.png,,c,") == ["/home/me/a.png", "/home/me/b [1]/*.png", "c"]
    assert split_paths("") == [] and len(split_paths(",".join(["x" * 50] * 200))) == 200


@pytest.mark.parametrize("name", AWKWARD)
def test_records_are_found_in_any_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    train = [str(tmp_path / name / f"train-{number:05d}-of-00002") for number in (0, 1)]
    for file in (*train, tmp_path / name / "validation-00000-of-00001", tmp_path / name / "retrain-00000-of-00001"):
        Path(file).touch()
    assert find_files(str(tmp_path / name), "train") == train


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = make_config(mode="train", model_dir="~/run", data_dir="~/data", weights="~/b0.pth", dataset="folder")
    assert [config.directory, config.data_dir, config.weights] == [f"{tmp_path}/{n}" for n in ("run", "data", "b0.pth")]
    assert make_config(data_dir="gs://~/a").data_dir == "gs://~/a"
    RunFolder(tmp_path).write_options({"train_steps": 7, "recipe": "official"})
    assert make_config(mode="eval", model_dir="~").train_steps == 7
    assert find_run("~").path == find_run("~/model.keras").path == tmp_path
    (tmp_path / "a.png").touch()
    assert find_images("~/*.png") == find_images("~") == find_images("~/a.png") == [f"{tmp_path}/a.png"]


@pytest.mark.parametrize("script", ["to_tflite", "to_saved_model", "to_onnx", "to_web", "convert_weights"])
def test_scripts_expand_the_home_folder(tmp_path, script):
    source = "weights" if script == "convert_weights" else "model"
    _, _, errors = run(ROOT / f"export/{script}.py", f"--{source}=~/no-such.keras", "--output=~/new", cwd=tmp_path)
    assert os.path.expanduser("~/no-such.keras") in errors[-1] and "~" not in errors[-1]
