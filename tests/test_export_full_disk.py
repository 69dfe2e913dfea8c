"""Exports to a disk that is full, a small one that is mounted for the test."""

import gc
import subprocess

import keras
import pytest
from support.exports import WRITERS, make_small, write_packages
from support.images import random_images, write_folder

from keras_efficientnet import export
from keras_efficientnet.datasets import shards
from keras_efficientnet.export import weight_files


@pytest.fixture(scope="module")
def small():
    return make_small(layer=keras.layers.Dense(4000))  # of 300 kB


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 12 kB, which has an old file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12k", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def images(tmp_path):
    for split in ("train", "validation"):
        write_folder(tmp_path / "images" / split, ["cat", "dog"], 20)
    return tmp_path / "images"


def assert_refused(disk, write, name):
    """The error names the file and the reason in one line; nothing is left but complete files."""
    (disk / "mine").write_bytes(b"mine")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(disk / name)
    assert name in str(caught.value) and "{{" not in str(caught.value)
    assert not [path for path in disk.rglob(".*")]
    assert (disk / "mine").read_bytes() == b"mine"
    return caught.value


@pytest.mark.parametrize("kind", WRITERS)
def test_an_export_to_a_full_disk_is_one_line(small, disk, kind):
    assert_refused(disk, lambda path: WRITERS[kind](small, path), "new")
    assert not (disk / "new").exists()


def test_a_quantized_file_too(small, disk):
    options = {"quantize": "int8", "images": random_images(4)}
    assert_refused(disk, lambda path: export.to_tflite(small, path, **options), "new")


def test_a_web_page_too(small, disk, tmp_path):
    packages = write_packages(tmp_path / "packages/node_modules").parent
    assert_refused(disk, lambda path: export.to_web(small, path, runtime=packages), "new")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5py frees what it could not write
@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".safetensors"])
def test_weight_files_too(small, disk, ending):
    assert_refused(disk, lambda path: weight_files.write(small, path), f"new{ending}")
    gc.collect()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_records_too_and_with_more_space_the_same_command_resumes(disk, images, processes):
    def write(path):
        return shards.write_records(str(images), str(path), processes=processes, train_files=4)

    assert_refused(disk, write, "new")
    complete = {path: path.read_bytes() for path in (disk / "new").glob("train-*")}
    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    assert write(disk / "new") == {"train": 40, "validation": 40}
    assert all(path.read_bytes() == content for path, content in complete.items())
    assert len([*(disk / "new").glob("train-*-of-00004")]) == 4
