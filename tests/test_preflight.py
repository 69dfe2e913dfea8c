"""What the arguments alone decide is said before TensorFlow is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_efficientnet import preflight
from keras_efficientnet.architectures import VARIANTS, official_name
from keras_efficientnet.datasets import class_folders, records
from keras_efficientnet.datasets.transfer import TRANSFER
from keras_efficientnet.evaluation import predictions
from keras_efficientnet.export import weight_files
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.weights.readers.dispatch import open_weights

ROOT = Path(__file__).parent.parent
HIDE = """
import runpy, sys, time
started = time.perf_counter()
script, hidden, *arguments = sys.argv[1:]
sys.modules.update({name: None for name in filter(None, hidden.split(","))})
sys.path.insert(0, script.rpartition("/")[0])
sys.argv = [script, *arguments]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    assert not {"tensorflow", "keras", "matplotlib"} & set(sys.modules)
    assert time.process_time() < 2
"""


def fail(script, *arguments, hidden="", cwd=ROOT):
    """Returns the one line of a script that fails without TensorFlow, with some packages hidden."""
    command = [sys.executable, "-c", HIDE, str(ROOT / script), hidden, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1 and not done.stdout
    return line


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("main.py", "--mode=predict --images=main.py --model_dir=absent", "There is neither a checkpoint nor a model"),
        ("export/to_tflite.py", "--model=absent --output=a.tflite", "There is no file 'absent'. Give a .keras file"),
        ("export/to_records.py", "--folder=absent --output=new", "There is no folder 'absent'."),
        ("export/convert_weights.py", "--weights=imagenet --model_name=efficientnet-b9 --output=a.h5", "Unknown model"),
        ("export/benchmark.py", "--models=efficientnet-b9", "Unknown models: efficientnet-b9. Choose from: "),
    ],
)
def test_scripts_fail_before_they_import_tensorflow(script, arguments, message, tmp_path):
    (tmp_path / "main.py").touch()
    assert f": {message}" in fail(script, *arguments.split(), cwd=tmp_path)


@pytest.mark.parametrize(
    ("script", "arguments", "package", "extra"),
    [
        ("main.py", "--dataset=cifar10", "tensorflow_datasets", "tfds"),
        ("export/to_tflite.py", "--quantize=int8 --model=a.keras --output=a.tflite", "ai_edge_quantizer", "export"),
        ("export/to_onnx.py", "--format=openvino --model=a.keras --output=a", "openvino", "export"),
    ],
)
def test_a_missing_extra_is_named_with_its_command(script, arguments, package, extra, tmp_path):
    line = fail(script, *arguments.split(), hidden=package, cwd=tmp_path)
    assert (
        f'needs {package.replace("_", "-")}, which is not installed: pip install "keras_efficientnet[{extra}]"' in line
    )


def test_nothing_needs_an_extra_that_a_user_did_not_ask_for(tmp_path, monkeypatch):
    for names in preflight.EXPORT_PACKAGES.values():
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.keras").touch()
    for kind in ("saved_model", "tflite", "web", "none", "float16", "dynamic", "int16x8"):
        preflight.check_export(kind, str(tmp_path / "a.keras"), str(tmp_path / "new"), overwrite=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "efficientnet-b9"}, "Unknown model 'efficientnet-b9'"),
        ({"dataset": "fodler", "data_dir": "."}, "Received: dataset='fodler'. Did you mean 'folder'?"),
        ({"dataset": "record", "data_dir": "."}, "Did you mean 'records'?"),
        ({"dataset": "folder", "data_dir": "absent"}, "There is no folder 'absent'."),
        ({"dataset": "fgvc_aircraft", "data_dir": "absent"}, "There is no folder 'absent'."),
        ({"data_dir": "absent"}, "No files train-* in 'absent'. There is no such folder"),
        ({"weights": "advprob"}, "There are no weights 'advprob' of efficientnet-b0. Choose one of: "),
        ({"weights": "absent.safetensors"}, "There is no file 'absent.safetensors'."),
        ({"mode": "eval", "model_dir": "absent"}, "There is no checkpoint in absent to evaluate."),
        ({"mode": "eval"}, "There is no checkpoint in runs/efficientnet-b0 to evaluate."),
        (
            {"mode": "predict", "images": "."},
            "There is neither a checkpoint nor a model.keras in runs/efficientnet-b0.",
        ),
    ],
)
def test_mistakes_in_the_options_of_a_run_are_found(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        preflight.check_run(make_config(**options))
    assert message in str(error.value)


@pytest.mark.parametrize("images", ["absent.jpg", "here.jpg,absent.jpg"])
def test_a_missing_image_is_found(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/b0/model.keras", "here.jpg", "with,comma [1].jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="No image files at 'absent.jpg'"):
        preflight.check_run(make_config(mode="predict", model_dir="runs/b0", images=images))
    for sound in ("here.jpg,*.png", "with,comma [1].jpg", ".", "*.jpg"):
        preflight.check_run(make_config(mode="predict", model_dir="runs/b0", images=sound))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "imagenet"},
        {"dataset": "birdsnap", "data_dir": "."},
        {"dataset": "folders", "data_dir": "."},  # a dataset of the user, which TensorFlow Datasets has prepared
        {"dataset": "records", "data_dir": "gs://bucket/imagenet"},
        {"mode": "eval", "model_dir": "absent", "eval_timeout": 0.0},  # waits
    ],
)
@pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="needs the extra `weights`")
def test_valid_options_pass(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folders").mkdir()
    preflight.check_run(make_config(**options))


def message(function, *arguments):
    with pytest.raises(FileNotFoundError) as caught:
        function(*arguments)
    return str(caught.value)


def test_what_is_missing_is_named_in_the_words_of_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = preflight.check_run
    assert message(preflight.check_images, "a.jpg") == message(predictions.find_images, "a.jpg")
    assert message(preflight.check_weights, "a.h5", None) == message(open_weights(Path("a.h5")).__enter__)
    assert message(run, make_config(data_dir="a")) == message(records.find_files, "a", "train")
    assert message(run, make_config(dataset="folder", data_dir="a")) == message(class_folders.find_splits, "a")


def test_weights_of_a_run_of_another_width_are_refused(tmp_path):
    given = {"model_name": "efficientnet-b1", "width_coefficient": 0.5, "depth_coefficient": None}
    RunFolder(tmp_path).write_options(given | {"recipe": "official"})
    RunFolder(tmp_path).model.touch()
    for weights in (tmp_path, RunFolder(tmp_path).model):
        options = {"weights": str(weights), "model_dir": str(tmp_path / "new")}
        preflight.check_run(make_config(**options | given))
        with pytest.raises(
            ValueError, match="has model_name=efficientnet-b1, width_coefficient=0.5, depth_coefficient=N"
        ):
            preflight.check_run(make_config(**options, model_name="efficientnet-b1"))


def test_the_endings_of_weights_files_are_known():
    assert set(preflight.WEIGHT_ENDINGS) == set(weight_files.WRITERS)


def test_the_datasets_that_are_read_from_a_folder_are_known():
    assert set(preflight.UNPUBLISHED) == {name for name, row in TRANSFER.items() if row.splits is None}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("efficientnet-b9", "efficientnet-b"),
        ("EfficientNetB3", "efficientnet-b3"),
        ("efficientnet_lite5", "efficientnet-lite"),
        ("efficentnet-b0", "efficientnet-b0"),
        ("efficientnetv2-s", None),
        ("efficientnetv2-b0", None),
        ("tf_efficientnetv2_l", None),
        ("resnet50", None),
        ("efficientnet-x", None),
    ],
)
def test_only_a_network_of_the_same_family_is_suggested(name, meant):
    with pytest.raises(ValueError, match=f"Unknown model '{name}'") as error:
        official_name(name)
    suggested = [known for known in VARIANTS if f"Did you mean {known!r}?" in str(error.value)]
    assert len(suggested) == bool(meant) and all(known.startswith(meant) for known in suggested)
