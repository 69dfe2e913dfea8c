"""Writes records in the official layout, always with the same bytes, and resumes after an interruption."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, TINY
from support import scripts
from support.images import encoded, jpeg, record, write_folder, write_records

from keras_efficientnet.datasets import make_datasets, records, shards
from keras_efficientnet.recipes import make_config


def records_of(path):
    serialized = tf.data.TFRecordDataset([str(path)]).as_numpy_iterator()
    return [tf.train.Example.FromString(value).features.feature for value in serialized]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """18 training and 6 validation images; their names count from 0 in each class."""
    folder = tmp_path_factory.mktemp("images") / "[1], *?"  # any name will do
    write_folder(folder / "train", [f"n{number:02d}" for number in range(9)], 2)
    write_folder(folder / "validation", [f"n{number:02d}" for number in range(0, 6)], 1)
    return folder


def test_order_and_files_are_those_of_the_official_writer(folder, tmp_path):
    """Expected are the indices that imagenet_to_gcs.py (tensorflow/tpu 7dc921f) put in each of 4 files.

    It was run on 18 photographs, shuffled with seed 0, ceil(18 / 4) per file; the 6 validation images kept their order.
    """
    indices = ([11, 9, 0, 16, 2], [15, 10, 3, 5, 17], [14, 6, 7, 8, 4], [1, 13, 12])
    shards.write_records(str(folder), str(tmp_path / "out"), train_files=4, validation_files=2, processes=1)
    for number, expected in enumerate(indices):
        rows = records_of(tmp_path / f"out/train-{number:05d}-of-00004")
        classes = [int(row["image/class/synset"].bytes_list.value[0][1:]) for row in rows]
        files = [int(row["image/filename"].bytes_list.value[0][:3]) for row in rows]
        assert [2 * name + file for name, file in zip(classes, files, strict=True)] == expected
    rows = records_of(tmp_path / "out/validation-00001-of-00002")
    assert [row["image/class/label"].int64_list.value[0] for row in rows] == [4, 5, 6]


def test_a_record_has_the_official_keys_and_the_bytes_of_the_image(folder):
    path = folder / "train/n04/001.jpg"
    features = tf.train.Example.FromString(shards.to_record(str(path), 4, "n04")).features.feature
    numbers = {key: list(value.int64_list.value) for key, value in features.items() if value.HasField("int64_list")}
    words = {key: value.bytes_list.value[0] for key, value in features.items() if value.HasField("bytes_list")}
    assert numbers == {
        "image/class/label": [5],
        "image/height": [40],
        "image/width": [48],
        "image/channels": [3],
    }
    assert words == {
        "image/encoded": path.read_bytes(),
        "image/class/synset": b"n04",
        "image/colorspace": b"RGB",
        "image/format": b"JPEG",
        "image/filename": b"001.jpg",
    }


@pytest.mark.parametrize(
    "mode, kind", [("RGB", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("L", "PNG")]
)
def test_other_formats_become_rgb_jpegs(tmp_path, mode, kind):
    path = tmp_path / "image"
    path.write_bytes(encoded(mode, kind))
    features = tf.train.Example.FromString(shards.to_record(str(path), 0, "a")).features.feature
    data = features["image/encoded"].bytes_list.value[0]
    assert tf.image.extract_jpeg_shape(data).numpy().tolist() == [40, 48, 3]
    expected = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False).numpy().astype(float)
    # the tolerance is for colours at half the resolution, as the official writer encodes them
    assert np.abs(tf.io.decode_jpeg(data).numpy() - expected).mean() < 3


def test_processes_and_an_interruption_do_not_change_the_bytes(folder, tmp_path):
    options = {"train_files": 3, "validation_files": 1}
    shards.write_records(str(folder), str(tmp_path / "one"), processes=1, **options)
    shards.write_records(str(folder), str(tmp_path / "two"), processes=2, **options)
    expected = contents(tmp_path / "one")
    assert len(expected) == 6 and contents(tmp_path / "two") == expected
    (tmp_path / "two/train-00001-of-00003").unlink()
    leftover = tmp_path / "two/.train-00002-of-00003.abcdefgh.unfinished"  # of a killed process, as in test_files.py
    leftover.mkdir()
    (leftover / "train-00002-of-00003").write_bytes(b"half")
    modified = (tmp_path / "two/train-00000-of-00003").stat().st_mtime_ns
    shards.write_records(str(folder), str(tmp_path / "two"), processes=1, **options)
    assert contents(tmp_path / "two") == expected
    assert (tmp_path / "two/train-00000-of-00003").stat().st_mtime_ns == modified


def test_writing_into_a_folder_of_other_records_is_an_error(folder, tmp_path):
    shards.write_records(str(folder), str(tmp_path / "out"), processes=1)
    with pytest.raises(ValueError, match="holds records of other images or options"):
        shards.write_records(str(folder), str(tmp_path / "out"), processes=1, seed=1)
    (tmp_path / "out/to_records.json").unlink()
    with pytest.raises(ValueError, match="holds records without to_records.json, made by another program"):
        shards.write_records(str(folder), str(tmp_path / "out"), processes=1)


def test_too_many_files_are_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match="train has 18 images. Reduce `train_files`"):
        shards.write_records(str(folder), str(tmp_path / "out"), train_files=10, processes=1)


def test_imagenet_gets_its_official_number_of_files():
    files = shards.ImageFiles([f"{number}.jpg" for number in range(50_000)], [0] * 50_000, ["a"])
    assert len(shards._plan("validation", files, "out", None, 0)) == 128
    assert -(-1_281_167 // shards.IMAGES_PER_FILE["train"]) == 1024


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"GIF89a nothing", lambda data: b""]
)
def test_broken_image_is_named_and_no_incomplete_file_is_left(tmp_path, damage):
    write_folder(tmp_path / "in", ["a", "b"], 10)
    path = tmp_path / "in/b/003.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="in/b/003.jpg holds no valid JPEG, PNG, GIF, BMP or WebP"):
        shards.write_records(str(tmp_path / "in"), str(tmp_path / "out"), processes=1)
    assert not list((tmp_path / "out").glob("train-*"))


def test_script_writes_records_that_training_reads(folder, tmp_path):
    output = tmp_path / "out"
    options = (f"--folder={folder}", f"--output={output}", "--processes=1")
    status, lines, errors = scripts.run(ROOT / "export/to_records.py", *options, cwd=tmp_path)
    assert status == 0, errors
    assert lines == [f"{output}: 18 images to train on, 6 to evaluate on"]
    data = make_datasets(make_config(data_dir=str(output), crop_fraction=1.0), TINY._replace(resolution=40))
    assert data.class_names == tuple(f"n{number:02d}" for number in range(9)) and data.train_images == 18
    images, labels = next(data.valid.batch(6).as_numpy_iterator())
    assert labels.tolist() == list(range(6))
    expected = tf.io.decode_jpeg(jpeg(seed=3))[:, 4:44]
    # without the edge of the window, where colours are sampled differently
    np.testing.assert_array_equal(images[3][:, :38], expected[:, :38])
    status, _, errors = scripts.run(ROOT / "export/to_records.py", *options, "--seed=1", cwd=tmp_path)
    assert status == 1 and errors[-1].startswith("to_records.py: ")


def complete(split, count=2, ending=""):
    return [f"{split}-{number:05d}-of-{count:05d}{ending}" for number in range(count)]


def find_files(folder, names, split):
    """Writes one record to each file, and one of the other split. Returns the names of the files that a run reads."""
    folder.mkdir()
    other = "train" if split == "validation" else "validation"
    for name in [*names, *complete(other, 1)]:
        write_records(folder / name, [record(jpeg(), 1)])
    found = records.find_splits(str(folder), make_config(data_dir=str(folder)))
    return [Path(path).name for path in found[split == "validation"]]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda split: complete(split)[:1], "1 files X-.*, which must be 2. Missing: X-00001-of-00002. Copy"),
        (lambda split: complete(split)[1:], "Missing: X-00000-of-00002. Copy"),
        (
            lambda split: complete(split, 9)[7:],
            "X-00000-of-00009, X-00001-of-00009, X-00002-of-00009 and 4 more. ",
        ),
        (lambda split: [*complete(split), f"{split}-00002-of-00002"], "3 files X-.*, which must be 2. Missing: none"),
        (
            lambda split: complete(split) + complete(split, 1),
            "X-00000-of-00001 and X.*, which are not of one set",
        ),
        (lambda split: complete(split) + complete(split, 2, ".tfrecord"), "tfrecord.*, which are not of one set"),
        (lambda split: [f"{split}-0", f"{split}.tfrecord", f"{split}-00000-of-00001.bak"], r"No files X-\*"),
    ],
)
def test_files_that_are_not_one_complete_set_are_refused(tmp_path, split, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("X", split)):
        find_files(tmp_path / "data [1]*", make(split), split)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("ending", ["-00001-of-00002.bak", "-00001-of-00002 (1)", "-00001-of-00002~", "-1", "-old"])
def test_files_named_almost_like_records_are_reported_and_not_read(tmp_path, split, ending, caplog):
    assert find_files(tmp_path / "data [1]*", [*complete(split), split + ending], split) == complete(split)
    [message] = caplog.messages
    assert message.endswith(f"1 files are not named like train-00000-of-01024 and are not read: {split}{ending}")


def test_complete_files_are_read_without_a_warning(tmp_path, caplog):
    names = complete("train", 3, ".tfrecord")
    assert find_files(tmp_path / "data", names, "train") == names and not caplog.messages
