"""Exports in their runtimes against the model in Keras; failures; the scripts."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import ROOT
from support.exports import LABELS, RandomNoise, content, enliven, load, make_small
from support.images import random_images
from support.scripts import run, run_help

from keras_efficientnet import export, files
from keras_efficientnet.export import preparation
from keras_efficientnet.layers import BatchNormalization
from keras_efficientnet.models import make_model

WRITERS = {"saved_model": export.to_saved_model, "tflite": export.to_tflite}


@pytest.fixture(scope="module")
def model(tiny):
    keras.utils.set_random_seed(1)
    return enliven(make_model(tiny, classes=10))


@pytest.fixture(scope="module")
def small():
    model = make_small()
    assert np.std(model(random_images(16)), axis=0).max() > 0.01  # it tells images apart
    return model


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export.to_saved_model(model, path, labels=LABELS)
    return path


@pytest.fixture(scope="module")
def tflite(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    export.to_tflite(model, path)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_exporting_does_not_change_the_model(tmp_path, kind):
    model = make_small()
    before = model.get_weights()
    WRITERS[kind](model, tmp_path / "new")
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("count", [1, 5])
def test_a_tflite_file_gives_the_probabilities_of_the_model_for_any_number_of_images(model, tflite, count):
    images = random_images(count)
    np.testing.assert_allclose(export.load_tflite(tflite)(images), model(images, training=False), atol=1e-4)


def test_a_tflite_file_has_a_signature_with_names(tflite):
    interpreter = Interpreter(os.fspath(tflite))
    runner = interpreter.get_signature_runner("serving_default")
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["inputs"], "outputs": ["probabilities"]}}
    image, probabilities = runner.get_input_details()["inputs"], runner.get_output_details()["probabilities"]
    assert (image["dtype"], image["shape"].tolist()) == (np.float32, [1, 32, 32, 3])
    assert (probabilities["dtype"], probabilities["shape"].tolist()) == (np.float32, [1, 10])


def test_a_tflite_file_holds_the_kernels(model, tflite):
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    assert tflite.stat().st_size > sum(kernel.value.numpy().nbytes for kernel in kernels)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_loaded_file_is_a_function_from_images_to_probabilities(model, saved_model, tflite, kind):
    path = {"saved_model": saved_model, "tflite": tflite}[kind]
    images = random_images(2)
    probabilities = load(kind, path)(images)
    assert type(probabilities) is np.ndarray
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, model(images, training=False), atol=1e-4)


def test_a_tflite_file_of_free_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"build it with a fixed `input_shape`"):
        export.to_tflite(make_small(shape=(None, 32, 3)), tmp_path / "free.tflite")


def test_a_tflite_file_of_mixed_precision_is_refused(tmp_path, set_policy):
    set_policy("mixed_bfloat16")
    with pytest.raises(ValueError, match="float32"):
        export.to_tflite(make_small(), tmp_path / "mixed.tflite")


@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_that_gives_no_row_of_numbers_is_refused(tiny, tmp_path, kind):
    with pytest.raises(ValueError, match="include_top=True, or with pooling='avg'"):
        WRITERS[kind](make_model(tiny, include_top=False, input_shape=(32, 32, 3)), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_with_other_probabilities_is_removed(tmp_path, kind):
    with pytest.raises(RuntimeError, match=r"differ by up to 0\.\d+"):
        WRITERS[kind](make_small(layer=RandomNoise()), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_a_file_of_nans_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(export.tflite, "collect_variables", lambda model: model)
    with pytest.raises(RuntimeError, match="not finite|other probabilities than small"):  # as memory is
        export.to_tflite(make_small(), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_a_model_with_nans_is_refused(tmp_path):
    model = make_small()
    model.weights[0].assign(model.weights[0] * np.nan)
    with pytest.raises(RuntimeError, match="small gives probabilities that are not finite"):
        export.to_saved_model(model, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_failure_keeps_the_old_file_and_leaves_no_other_files(small, monkeypatch, tmp_path, kind, error):
    WRITERS[kind](small, tmp_path / "old")
    before = content(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(getattr(export, kind), "check_exact", fail)
    with pytest.raises(error):
        WRITERS[kind](small, tmp_path / "old", overwrite=True)
    assert content(tmp_path) == before
    assert [*tmp_path.iterdir()] == [tmp_path / "old"]


def test_a_saved_model_that_cannot_be_moved_leaves_the_old_one(small, monkeypatch, tmp_path):
    export.to_saved_model(small, tmp_path / "old")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)  # as on a system that cannot
    before, replace = content(tmp_path), os.replace

    def fail_for_the_new_one(source, target):
        if Path(source) == Path(source).with_name(Path(target).name):
            raise PermissionError(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new_one)
    with pytest.raises(PermissionError):
        export.to_saved_model(small, tmp_path / "old", overwrite=True)
    assert content(tmp_path) == before
    assert [*tmp_path.iterdir()] == [tmp_path / "old"]


def test_a_full_disk_is_an_os_error(small, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left on device"):
        export.to_saved_model(small, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", WRITERS)
def test_an_existing_export_is_replaced_only_with_overwrite(small, tmp_path, kind):
    path = tmp_path / "old"
    WRITERS[kind](make_small(layer=keras.layers.Rescaling(2.0)), path)
    before = content(path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        WRITERS[kind](small, path)
    assert content(path) == before
    WRITERS[kind](small, path, overwrite=True)
    assert {*content(tmp_path)} == {*before}
    np.testing.assert_allclose(load(kind, path)(random_images(3)), small(random_images(3)), atol=1e-5)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_with_other_files_is_never_replaced(small, tmp_path, kind):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("one")
    with pytest.raises(FileExistsError, match="holds files that this export did not write"):
        WRITERS[kind](small, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "one"


@pytest.mark.parametrize("kind", WRITERS)
def test_an_export_has_the_permissions_of_a_new_file(small, tmp_path, kind):
    path = tmp_path / "new"
    WRITERS[kind](small, path)
    usual = tmp_path / "usual"
    usual.mkdir() if path.is_dir() else usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("script", [pytest.param("to_saved_model", marks=pytest.mark.slow), "to_tflite"])
def test_the_example_in_the_help_of_a_script_runs_as_printed(small, tmp_path, script):
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "runs/efficientnet-b0").mkdir(parents=True)
    small.save(tmp_path / "runs/efficientnet-b0/model.keras")
    [example] = [line for line in run_help(f"export/{script}.py") if line.startswith("python export/")]
    code, lines, errors = run(*shlex.split(example)[1:], cwd=tmp_path)
    assert (code, errors) == (0, [])
    output = example.rpartition("--output=")[2]
    assert lines[0].startswith(f"| file                        | {Path(output).name}, ")
    assert any(re.match(r"\| agreement with the model    \| 100.00 % +\|", line) for line in lines)
    assert (tmp_path / f"{output}.report.json").is_file()
    probabilities = load(script.removeprefix("to_"), tmp_path / output)(random_images(3))
    np.testing.assert_allclose(probabilities, small(random_images(3)), atol=1e-4)  # the example for TFLite is float16


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("to_tflite", "--model=absent.keras --output=new", "There is no file 'absent.keras'"),
        ("to_saved_model", "--model=bad.keras --output=new", "bad.keras is not a complete .keras file"),
        ("to_tflite", "--model=small.keras --output=bad.keras", "bad.keras exists. Choose another path"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(small, tmp_path, script, options, message):
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 and then no more")
    small.save(tmp_path / "small.keras")
    code, lines, errors = run(ROOT / f"export/{script}.py", *options.split(), cwd=tmp_path)
    assert (code, lines, len(errors)) == (1, [], 1), errors
    assert errors[0].startswith(f"{script}.py: {message}")
    assert not (tmp_path / "new").exists()


def test_an_adapted_normalisation_keeps_its_numbers_in_every_format(tmp_path):
    images = random_images(8)
    adapted = keras.layers.Normalization()
    adapted.adapt(images)
    model = keras.Sequential([keras.Input((32, 32, 3)), adapted, keras.layers.Conv2D(8, 3), BatchNormalization()])
    for layer in (keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(4, "softmax")):
        model.add(layer)
    expected = model(images, training=False)
    assert np.ptp(expected[:, 0]) > 1e-3
    export.to_tflite(model, tmp_path / "file.tflite")
    export.to_onnx(model, tmp_path / "file.onnx")
    export.to_openvino(model, tmp_path / "openvino")
    for kind, name in (("tflite", "file.tflite"), ("onnx", "file.onnx"), ("openvino", "openvino")):
        np.testing.assert_allclose(load(kind, tmp_path / name)(images), expected, atol=1e-5)


def test_a_model_with_a_loop_inside_is_exported(tmp_path):
    rows = [keras.layers.Conv2D(8, 3), keras.layers.Reshape((30, 240)), keras.layers.GRU(8, unroll=False)]
    model = keras.Sequential([keras.Input((32, 32, 3)), *rows, keras.layers.Dense(4, "softmax")])
    export.to_tflite(model, tmp_path / "file.tflite")
    images = random_images(2) / 255
    np.testing.assert_allclose(export.load_tflite(tmp_path / "file.tflite")(images), model(images), atol=1e-5)


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_an_unsupported_operation_is_one_line(tmp_path, kind):
    image = keras.Input((32, 32, 3))
    strange = keras.ops.erfinv(keras.ops.tanh(image)) if kind == "tflite" else keras.ops.fft2((image, image))[0]
    top = keras.layers.Dense(4, "softmax")(keras.layers.GlobalMaxPooling2D()(strange))
    model = keras.Model(image, top)
    with pytest.raises(ValueError, match="cannot be converted to"):
        getattr(export, f"to_{kind}")(model, tmp_path / "file")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_model_itself_is_not_overwritten(tmp_path, suffix):
    model = make_small()
    path = tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(tmp_path / "model.weights.h5")
    path = path if suffix == ".keras" else tmp_path / "model.weights.h5"
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="holds files that this export did not write"):
        export.to_tflite(model, path, overwrite=True)
    assert path.read_bytes() == before


def test_a_folder_with_more_than_a_saved_model_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/saved_model.pb").write_bytes(b"")
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds files that this export did not write"):
        export.to_saved_model(make_small(), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").read_text() == "precious"


def test_a_rejected_file_replaces_no_file_of_the_user(tmp_path):
    (tmp_path / "new.rejected").mkdir()
    (tmp_path / "new.rejected/mine.txt").write_text("precious")
    for _ in range(2):
        with pytest.raises(export.RejectedFileError, match=r"new\.rejected-1"):
            with export.replacing(tmp_path / "new", False, is_ours=Path.is_file) as new:
                new.write_text("bad")
                raise export.RejectedFileError("No good.")
    assert (tmp_path / "new.rejected/mine.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.rejected", "new.rejected-1"]


def test_timing_does_not_run_the_main_script_again(tmp_path):
    model = make_small()
    model.save(tmp_path / "model.keras")
    (tmp_path / "script.py").write_text(
        "print('here')\nfrom keras_efficientnet import export\n"
        "export.export_file('model.keras', 'file.tflite', 'tflite')\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


LINES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"W0000 00:00:1795888720.332558   31330 tf_tfl_flatbuffer_helpers.cc:364] Ignored output_format.\n"
    b"I0000 00:00:1795888720.333040   31330 reader.cc:83] Reading SavedModel from: /tmp/tmpidmbd5u9\n"
    b"2026-11-28 17:00:00.123456: I tensorflow/cc/saved_model/reader.cc:83] Reading SavedModel\n"
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
)
KEPT = b"E0000 00:00:1795888720.3  31330 reader.cc:83] No space\n\nof another thread: I am here\nno end of line"


def test_information_of_the_converters_is_not_shown_and_everything_else_is(capfd):
    with pytest.raises(KeyboardInterrupt), preparation.suppress_info_logs(), preparation.suppress_info_logs():
        os.write(2, LINES + KEPT)
        raise KeyboardInterrupt
    assert capfd.readouterr().err == KEPT.decode()


EXPORT = """
import sys
import keras
from keras_efficientnet import export
model = export.load_model(sys.argv[1])
print("loaded", file=sys.stderr, flush=True)
export.to_tflite(model, sys.argv[2])
"""


@pytest.mark.slow
def test_to_tflite_prints_nothing(small, tmp_path):
    small.save(tmp_path / "small.keras")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", EXPORT, tmp_path / "small.keras", tmp_path / "small.tflite"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.partition("loaded\n")[1:] == ("loaded\n", "")
