"""Broken records stop a run with their name, or are left out and counted.

A broken example is one record, the second of three, or a file. Valid images of unusual kinds are read.
"""

import io
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from PIL import Image
from support.images import encoded, jpeg, record, smooth, write_records
from support.runs import SMALL, run_main

from keras_efficientnet import training
from keras_efficientnet.datasets import damage, make_datasets, records
from keras_efficientnet.datasets.pipeline import train_examples
from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.recipes import make_config

pytestmark = pytest.mark.usefixtures("short_network")

GOOD = [record(jpeg(seed=seed), 1 + seed) for seed in range(3)]
LENGTHS = [len(value) + 16 for value in GOOD]
DATA = jpeg(seed=7)
NETWORK = SMALL | {"frozen_layers": "backbone"}


def noisy(data, seed=0, below=256):
    """Returns a JPEG with a valid header and noise instead of image data, of bytes below a number."""
    start = data.rindex(b"\xff\xda") + 14
    noise = np.random.default_rng(seed).integers(0, below, len(data) - start - 2, "uint8")
    return data[:start] + noise.tobytes() + data[-2:]


def cut_off(file):
    return file[: LENGTHS[0] + 100]


def flipped(file):
    """Flips one bit of the second record, so that its checksum is wrong."""
    position = LENGTHS[0] + 12 + 200
    return file[:position] + bytes([file[position] ^ 1]) + file[position + 1 :]


RECORDS = {
    "noise after the header": (record(noisy(DATA), 2), "record 1 .* holds a corrupt JPEG"),
    "noise without markers": (record(noisy(DATA, below=255), 2), "record 1 .* holds a corrupt JPEG"),
    "no header": (record(bytes(64) + DATA[64:], 2), "record 1 .* holds no image that can be decoded"),
    "half a JPEG": (record(DATA[: len(DATA) // 2], 2), "record 1 .* holds no image that can be decoded"),
    "no image": (record(b"", 2), "record 1 .* holds no image that can be decoded"),
    "label 0": (record(DATA, 0), "record 1 .* has label 0; for 5 classes it must be 1 to 5"),
    "label too large": (record(DATA, 6), "record 1 .* has label 6; for 5 classes it must be 1 to 5"),
    "no label": (record(DATA, None), "record 1 .* is not a tf.train.Example with image/encoded and image/class/label"),
    "no bytes": (record(None, 2), "record 1 .* is not a tf.train.Example"),
    "no Example": (b"this is text, not an Example", "record 1 .* is not a tf.train.Example"),
    "no text": (b"\xff\xfe\x80", "record 1 .* is not a tf.train.Example"),  # TensorFlow cannot print its own error
}
FILES = {
    "cut off": (cut_off, "record 1 .* cannot be read: the file is cut off or has a wrong checksum"),
    "bit flipped": (flipped, "record 1 .* cannot be read: the file is cut off or has a wrong checksum"),
    "empty file": (lambda file: b"", "record 0 .* cannot be read: the file is cut off"),
}


def write_broken(folder, kind):
    """Writes a valid file and one with the damage. Returns the expected description."""
    folder.mkdir(exist_ok=True)
    write_records(folder / "validation-00000-of-00002", GOOD)
    path = folder / "validation-00001-of-00002"
    write_records(path, [GOOD[0], RECORDS[kind][0], GOOD[2]] if kind in RECORDS else GOOD)
    if kind in FILES:
        path.write_bytes(FILES[kind][0](path.read_bytes()))
    return f"validation-00001-of-00002, {(RECORDS | FILES)[kind][1]}"


def options(folder, **given):
    return make_config(data_dir=str(folder), num_label_classes=5, mode="eval", num_eval_images=6, **given)


@pytest.mark.parametrize("kind", [*RECORDS, *FILES])
def test_reading_stops_and_names_the_broken_record(tmp_path, kind):
    message = write_broken(tmp_path, kind)
    data = make_datasets(options(tmp_path), TINY)
    advice = ".*Repair it, or set `skip_broken_records`"
    with pytest.raises(ValueError, match=message + advice), damage.report_broken(data.explain_valid):
        list(data.valid)


def write_broken_train(folder, kind):
    message = write_broken(folder, kind).replace("validation", "train")
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("validation", "train"))
    return message, {"data_dir": str(folder), "num_label_classes": 5, "mode": "train", "num_train_images": 6}


QUICK = {  # damage that differs for the training pipeline; the evaluation above reads every kind
    0: {"noise after the header", "label 0", "cut off"},
    33: {"half a JPEG", "bit flipped"},
}
CASES = [
    pytest.param(start, kind, marks=() if kind in QUICK[start] else pytest.mark.slow)
    for start in QUICK
    for kind in (*RECORDS, *FILES)
]


@pytest.mark.parametrize(("start", "kind"), CASES)
def test_training_stops_and_names_the_broken_record(tmp_path, start, kind):
    message, given = write_broken_train(tmp_path, kind)
    data = make_datasets(make_config(**given), TINY)
    with pytest.raises(ValueError, match=message), damage.report_broken(lambda: data.explain_train(start)):
        list(data.train(start).take(12))


@pytest.mark.parametrize("kind", ["half a JPEG", pytest.param("bit flipped", marks=pytest.mark.slow)])
def test_run_on_two_replicas_names_the_broken_record(tmp_path, kind):
    """TensorFlow's own errors are about an image and about a file."""
    message, given = write_broken_train(tmp_path / "data", kind)
    options = given | NETWORK | {"train_batch_size": 2, "train_steps": 9, "num_replicas": 2}
    with pytest.raises(ValueError, match=message):
        training.run(make_config(**options, model_dir=str(tmp_path / "run")))


def test_main_names_the_broken_record_in_one_line(tmp_path):
    message, given = write_broken_train(tmp_path / "data", "no text")
    options = given | NETWORK | {"train_batch_size": 2, "train_steps": 9}
    done = run_main(model_dir=tmp_path / "run", **options)
    assert done.status == 1
    assert re.fullmatch(f"main.py: .*{message}.*", done.err.splitlines()[-1])


def test_damaged_file_is_found_in_what_the_shuffle_buffer_read_ahead(tmp_path):
    """The last of 20 records is cut off: the shuffle buffer reads all of them before it returns the first."""
    write_records(tmp_path / "train-00000-of-00001", [record(jpeg(seed=seed), 1) for seed in range(20)])
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-9])
    given = {"data_dir": str(tmp_path), "num_label_classes": 5, "mode": "train", "train_batch_size": 1}
    data = make_datasets(make_config(**given, num_train_images=20), TINY)
    with pytest.raises(tf.errors.DataLossError):
        next(iter(data.train(0)))
    assert re.search("00000-of-00001, record 19 .* is cut off", data.explain_train(0))
    assert re.search("00000-of-00001, record 19 .* is cut off", data.explain_train(7))


def test_valid_data_have_nothing_to_explain(tmp_path):
    _, given = write_broken_train(tmp_path, "half a JPEG")
    (tmp_path / "train-00001-of-00002").unlink()
    (tmp_path / "train-00000-of-00002").rename(tmp_path / "train-00000-of-00001")
    data = make_datasets(make_config(**given | {"num_train_images": 3}), TINY)
    assert data.explain_train(0) is None
    with pytest.raises(tf.errors.UnknownError, match="about something else"):  # raised unchanged
        with damage.report_broken(lambda: data.explain_train(0)):
            raise tf.errors.UnknownError(None, None, "about something else")


@pytest.mark.parametrize(("start", "last"), [(0, 5), (3, 11)])
def test_noise_is_searched_until_every_record_was_read(tmp_path, start, last):
    """Searched are the first epoch of a process, which may be partial, and the next. It takes a tenth of the time."""
    _, given = write_broken_train(tmp_path, "noise after the header")
    data = make_datasets(make_config(**given), TINY)
    examples = iter(data.train(start))
    with pytest.raises(tf.errors.InvalidArgumentError):
        for _ in range(start, last + 1):
            next(examples)


@pytest.mark.parametrize(("epoch", "is_found"), [(0, True), (1, True), (2, False)])
def test_noise_is_not_searched_again(epoch, is_found):
    """With six records per epoch, the rest of epoch 0 and epoch 1 are searched, epoch 2 is not.

    `fold_in` leaves the epoch in the second number of the seed. libjpeg ignores a comment after the image data.
    """
    marked = DATA[:-2] + b"\xff\xfe\x00\x02" + DATA[-2:]
    valid, noise = (tf.data.Dataset.from_tensors(record(data, 1)) for data in (DATA, marked))

    def items(seed):
        return valid.repeat(6).concatenate(noise).skip(tf.cast(seed[1] == epoch, tf.int64)).take(6)

    source = Source(images=6, classes=5, items=items, load=records.parse, named=items)
    examples = train_examples(source, 6, make_config(data_dir="", num_label_classes=5, mode="train"), TINY, 3, 0, 1)
    if is_found:
        with pytest.raises(tf.errors.InvalidArgumentError):
            list(examples.take(15))
    else:
        assert len(list(examples.take(15))) == 15


def test_skip_broken_records_leaves_out_and_counts_them(tmp_path):
    """Each kind of damage has its own file: 2 valid records are left in 11 files, 1, 1 and 0 in the others."""
    expected, valid = [], 0
    for number, kind in enumerate([*RECORDS, *FILES]):
        (tmp_path / kind).mkdir()
        expected.append(write_broken(tmp_path / kind, kind))
        expected[-1] = expected[-1].replace("00001-of-00002", f"{number:05d}-of-00014")
        valid += 2 if kind in RECORDS else kind != "empty file"
        (tmp_path / kind / "validation-00001-of-00002").rename(tmp_path / f"validation-{number:05d}-of-00014")
    config = make_config(data_dir=str(tmp_path), num_label_classes=5, mode="eval", skip_broken_records=True)
    data = make_datasets(config, TINY)
    assert data.valid_images == valid == 24 == len(list(data.valid))
    assert len(data.broken_examples) == len(expected)
    for problem, message in zip(data.broken_examples, expected, strict=True):
        assert tf.strings.regex_full_match(problem, f".*{message}.*")


def test_a_broken_first_example_stops_a_run_at_its_start(tmp_path):
    path = tmp_path / "validation-00000-of-00001"
    for broken, message in RECORDS.values():
        write_records(path, [broken, GOOD[0]])
        with pytest.raises(ValueError, match=message.replace("record 1", "record 0") + ".*skip_broken_records"):
            make_datasets(options(tmp_path), TINY)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="record 0 .* cannot be read: the file is cut off.*skip_broken_records"):
        make_datasets(options(tmp_path), TINY)


def test_only_broken_data_stop_a_run_at_its_start(tmp_path):
    write_records(tmp_path / "validation-00000-of-00001", [record(b"no image", 1)] * 6)
    with pytest.raises(ValueError, match="record 0 .* holds no image that can be decoded.*skip_broken_records"):
        make_datasets(options(tmp_path), TINY)
    with pytest.raises(ValueError, match="All 6 examples are broken. The first: .*record 0"):
        make_datasets(options(tmp_path, skip_broken_records=True), TINY)


UNUSUAL = {
    "progressive": encoded("RGB", "JPEG", progressive=True),
    "restarts": encoded("RGB", "JPEG", restart_marker_blocks=2),
    "CMYK": encoded("CMYK", "JPEG"),
    "grayscale": encoded("L", "JPEG"),
    "thumbnail": encoded("RGB", "JPEG", exif=b"Exif\0\0" + DATA),
    "trailing": encoded("RGB", "JPEG") + b"\xff\x01\xff\x02 data that a camera adds",
    "PNG": encoded("RGB", "PNG"),
    "PNG with alpha": encoded("RGBA", "PNG"),
    "GIF": encoded("P", "GIF"),
    "BMP": encoded("RGB", "BMP"),
    "WebP": encoded("RGB", "WEBP"),
}


def test_unusual_images_are_read_as_by_pillow(tmp_path):
    write_records(tmp_path / "validation-00000-of-00001", [record(data, 1) for data in UNUSUAL.values()])
    config = make_config(data_dir=str(tmp_path), num_label_classes=5, mode="eval", crop_fraction=1.0)
    images = next(make_datasets(config, TINY._replace(resolution=40)).valid.batch(20).as_numpy_iterator())[0]
    for image, (kind, data) in zip(images, UNUSUAL.items(), strict=True):
        expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))[:, 4:44]
        assert np.abs(image - expected).mean() < (30 if kind == "CMYK" else 1.5), (
            kind
        )  # decoders convert CMYK differently


@pytest.mark.parametrize(("below", "least"), [(256, 95), (255, 85)])
def test_noise_is_found(below, least):
    """100 times half a kB of noise. Without markers, noise is missed if it happens to end where its image does."""
    images = (jpeg(seed=seed) for seed in range(100))
    found = [bool(damage.is_corrupt(noisy(data, seed, below))) for seed, data in enumerate(images)]
    assert sum(found) >= least


def test_search_for_noise_prints_no_warning_for_valid_images(capfd):
    """libjpeg warns on the standard error output if an image does not end where its data do."""
    for seed in range(20):
        assert not damage.is_corrupt(jpeg(seed=seed))
    assert "JPEG" not in capfd.readouterr().err


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_valid_images_are_not_taken_for_noise(options):
    """Images of one colour, half of one colour, smooth, grainy and gray, of all qualities."""
    grain = np.random.default_rng(0).normal(0, 20, (64, 48, 3))
    for seed in range(20):
        images = [smooth(64, 48, seed), np.full((64, 48, 3), 10 * seed), smooth(8, 8, seed)]
        images += [np.clip(images[0] + grain, 0, 255), images[0] * (np.arange(64) < 32)[:, None, None]]
        for number, pixels in enumerate(images):
            for mode in ("RGB", "L"):
                file = io.BytesIO()
                image = Image.fromarray(pixels.astype("uint8")).convert(mode)
                image.save(file, "JPEG", quality=5 * seed + number, **options)
                assert not damage.is_corrupt(file.getvalue()), (seed, number, mode)
