"""Images of every kind, compared with Pillow. TensorFlow's own decoders read some of them wrongly or not at all."""

import io
import struct
import warnings

import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from PIL import Image
from support.image_files import bmps, gifs, png, pngs, unsupported_bmps, webps
from support.images import jpeg, record, write_records

from keras_efficientnet import decoding
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.datasets.damage import report_broken
from keras_efficientnet.evaluation.predictions import predict_files
from keras_efficientnet.preprocessing import image_for_evaluation
from keras_efficientnet.recipes import make_config

KINDS = {"BMP": bmps, "PNG": pngs, "GIF": gifs, "WebP": webps}
TOO_LARGE = {  # the header of an image of 400 million pixels
    "JPEG": jpeg().replace(struct.pack(">HH", 40, 48), struct.pack(">HH", 20000, 20000)),
    "PNG": png(2, 8, b"", height=20000, width=20000),
    "BMP": bmps()["24 bits"][:18] + struct.pack("<ii", 20000, -20000) + bmps()["24 bits"][26:],
    "GIF": gifs()["palette"][:6] + struct.pack("<HH", 20000, 20000) + gifs()["palette"][10:],
    "WebP": webps()["lossy, profile"][:24] + b"\x1f\x4e\0\x1f\x4e\0" + webps()["lossy, profile"][30:],
}


def pillow(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transparency that `convert` drops
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The decoder, saved and loaded again without this package."""
    path = str(tmp_path_factory.mktemp("decoder"))
    tf.saved_model.save(tf.Module(), path, {"decode": tf.function(decoding.decode, input_signature=[STRING])})
    return tf.saved_model.load(path).signatures["decode"]


STRING = tf.TensorSpec((), tf.string, name="data")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_as_by_pillow(kind, loaded):
    """Lossy files may differ by one grey level, as versions of libwebp do."""
    files = KINDS[kind]()
    images = tf.data.Dataset.from_tensor_slices(list(files.values())).map(decoding.decode)
    for (name, data), image in zip(files.items(), images.as_numpy_iterator(), strict=True):
        expected = pillow(data).astype(int)
        assert image.shape == expected.shape, name
        assert np.abs(image - expected).max() <= ("lossy" in name), name
        np.testing.assert_array_equal(loaded(tf.constant(data))["output_0"], image)


@pytest.mark.parametrize("name", unsupported_bmps())
def test_unsupported_bmp_is_named(name, loaded):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="is a BMP of an unsupported kind. It must be uncompressed"
    ):
        loaded(tf.constant(unsupported_bmps()[name]))


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_image_with_too_many_pixels_is_not_decoded(kind, loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than the 134,217,728 that are decoded"):
        loaded(tf.constant(TOO_LARGE[kind]))


def test_each_image_that_is_not_decoded_is_named_before_a_run(tmp_path):
    bad = [*unsupported_bmps().values(), *TOO_LARGE.values()]
    write_records(tmp_path / "validation-00000-of-00001", [record(data, 1) for data in (jpeg(), *bad)])
    config = make_config(data_dir=str(tmp_path), num_label_classes=5, mode="eval", skip_broken_records=True)
    broken = make_datasets(config, TINY).broken_examples
    messages = ["is a BMP of an unsupported kind"] * len(unsupported_bmps())
    messages += ["has 20000 x 20000 pixels, more than the 134,217,728 that are decoded"] * len(TOO_LARGE)
    for number, (found, message) in enumerate(zip(broken, messages, strict=True), start=1):
        assert f"record {number} (counted from 0) {message}" in found


def test_image_that_is_not_decoded_stops_training_with_its_name(tmp_path):
    data = unsupported_bmps()["8 bits, RLE of 160 bytes"]
    write_records(tmp_path / "train-00000-of-00001", [record(jpeg(), 1), record(data, 1)])
    given = {"data_dir": str(tmp_path), "num_label_classes": 5, "mode": "train", "num_train_images": 2}
    datasets = make_datasets(make_config(**given), TINY)
    with pytest.raises(ValueError, match="record 1 .* is a BMP of an unsupported kind"):
        with report_broken(lambda: datasets.explain_train(0)):
            list(datasets.train(0).take(2))
    (tmp_path / "a").write_bytes(data)
    [prediction] = predict_files([str(tmp_path / "a")], lambda data: image_for_evaluation(data, 8), np.array, "ab")
    assert prediction.fault.startswith("is a BMP of an unsupported kind")


def test_animation_ends_at_a_broken_chunk():
    """A chunk of a negative length, and one beyond the end: the search for the first frame must end."""
    data = bytearray(webps()["lossless, animated"])
    for size in (-8, -1, 1 << 30):
        data[34:38] = struct.pack("<i", size)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decoding.decode(bytes(data))


@pytest.mark.parametrize(("side", "fault"), [(11585, ""), (11586, "has 11586 x 11586 pixels")])
def test_largest_image_has_2_to_the_27_pixels(side, fault):
    """11,585 squared is 134,212,225."""
    data = gifs()["palette"]
    found = decoding.explain(data[:6] + struct.pack("<HH", side, side) + data[10:])
    assert found.startswith(fault) and bool(found) == bool(fault)
