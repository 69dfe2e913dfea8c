"""The scripts of export/, stopped by random signals at random moments."""

import contextlib
import os
import random
import signal
import time

import numpy as np
import pytest
from conftest import ROOT
from support import scripts
from support.exports import load, make_small, write_packages
from support.images import random_images, write_folder

from keras_efficientnet import export

SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT)
SCRIPTS = {
    "tflite": ("to_tflite", "--model=model.keras", "--overwrite"),
    "onnx": ("to_onnx", "--model=model.keras", "--overwrite"),
    "saved_model": ("to_saved_model", "--model=model.keras", "--overwrite"),
    "web": ("to_web", "--model=model.keras", "--overwrite", "--runtime=packages"),
    "records": ("to_records", "--folder=images", "--train_files=6", "--validation_files=2", "--processes=2"),
}


@pytest.fixture
def place(tmp_path):
    make_small().save(tmp_path / "model.keras")
    write_packages(tmp_path / "packages/node_modules")
    for split in ("train", "validation"):
        write_folder(tmp_path / "images" / split, ["cat", "dog"], 30)
    (tmp_path / "files").mkdir()
    return tmp_path


def start(place, kind, name):
    script, *options = SCRIPTS[kind]
    return scripts.start(ROOT / f"export/{script}.py", *options, f"--output=files/{name}", cwd=place)


def finish(place, kind, name):
    """Runs a script to its end; returns the seconds it took."""
    began = time.monotonic()
    process = start(place, kind, name)
    process.join(300)
    assert process.exitcode == 0, (place / "err").read_text()
    return time.monotonic() - began


def hidden(place):
    return [path.name for path in (place / "files").rglob(".*")]


def assert_complete(place, kind, name):
    """What stands at the target is complete: it gives the model's probabilities, or the records of the whole run."""
    path = place / "files" / name
    if kind == "records":
        for file in path.glob("[tv]*-of-*"):
            assert file.read_bytes() == (place / "files/whole" / file.name).read_bytes()
        return
    images = random_images(3)
    classify = export.load_tflite(path / "model.tflite") if kind == "web" else load(kind, path)
    np.testing.assert_allclose(classify(images), export.load_model(place / "model.keras")(images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCRIPTS)
def test_four_signals_at_random_moments_leave_complete_files(place, kind):
    """Twenty over the five scripts."""
    seed = random.Random(kind)
    finish(place, kind, "new")  # starts the server of processes
    duration = finish(place, kind, "whole")
    for number in SIGNALS:
        name = "new" if kind != "records" else number.name  # records are kept, not replaced
        process = start(place, kind, name)
        time.sleep(seed.uniform(0.1, 1.0) * duration)
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(process.pid, number)
        process.join(300)
        assert process.exitcode is not None
        assert_complete(place, kind, name)
        if number != signal.SIGKILL:
            assert not hidden(place), number
        else:
            finish(place, kind, name)
            assert_complete(place, kind, name)
            assert not hidden(place)
    if kind == "records":
        killed, whole = (place / "files" / name for name in (signal.SIGKILL.name, "whole"))
        assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
