"""Compares with golden/preprocessing.npz, made by the official code on TensorFlow 1.15 from synthetic JPEGs."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_efficientnet import preprocessing
from keras_efficientnet.preprocessing import image_for_evaluation, image_for_training

GOLDEN = np.load(Path(__file__).parent / "golden/preprocessing.npz")
JPEGS = [key.removeprefix("jpeg/") for key in GOLDEN if key.startswith("jpeg/")]
SEED = tf.constant([1, 2])


def jpeg(name):
    return tf.constant(GOLDEN[f"jpeg/{name}"].tobytes())


def gradient_png(height=40, width=60):
    rows = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, 3))
    return tf.io.encode_png(rows.astype("uint8"))


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "in a graph"])
def test_evaluation_image_equals_the_official_code(name, traced):
    make = tf.function(image_for_evaluation) if traced else image_for_evaluation
    image = make(jpeg(name), 48)
    np.testing.assert_allclose(image[::3, ::3], GOLDEN[f"image/{name}"], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", JPEGS)
def test_bilinear_image_equals_the_official_code_of_lite_and_edgetpu(name):
    image = image_for_evaluation(jpeg(name), 48, interpolation="bilinear")
    np.testing.assert_allclose(image[::6, ::6], GOLDEN[f"bilinear/{name}"], rtol=0, atol=0.01)


def encode(mode, kind, **options):
    """Encodes an image with Pillow. Returns its RGB pixels and the bytes of the file."""
    pixels = np.stack(np.meshgrid(np.arange(0, 240, 6), np.arange(10, 250, 6)), axis=-1).astype("uint8")
    image = Image.fromarray(np.concatenate([pixels, 255 - pixels[..., :1]], axis=-1)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return np.asarray(image.convert("RGB")).astype(int), tf.constant(stream.getvalue())


# mean difference of grey levels: 0 if lossless; JPEG decoders differ by a few levels, and convert CMYK differently
@pytest.mark.parametrize(
    ("mode", "kind", "options", "tolerance"),
    [
        ("RGB", "JPEG", {"quality": 95}, 1.5),
        ("RGB", "JPEG", {"quality": 95, "progressive": True}, 1.5),
        ("L", "JPEG", {"quality": 95}, 1.5),
        ("CMYK", "JPEG", {"quality": 95}, 3),
        ("P", "PNG", {}, 0),
        ("RGBA", "PNG", {}, 0),
        ("RGB", "BMP", {}, 0),
        ("P", "GIF", {}, 0),
    ],
)
def test_images_of_every_format_become_rgb(mode, kind, options, tolerance):
    pixels, data = encode(mode, kind, **options)
    for image in (
        image_for_evaluation(data, 40, crop_fraction=1.0),
        image_for_training(data, 40, SEED, random_crop=False, random_flip=False, crop_fraction=1.0),
    ):
        assert np.abs(image.numpy() - pixels).mean() <= tolerance


def test_16_bits_per_channel_are_reduced_to_8():
    pixels = np.arange(0, 65536, 1024, "uint16").reshape(8, 8, 1)
    image = image_for_evaluation(tf.io.encode_png(pixels), 8, crop_fraction=1.0)
    np.testing.assert_allclose(image, np.repeat(pixels >> 8, 3, axis=2), atol=1)


@pytest.mark.parametrize("size", [224, 380, 600])
def test_central_window_equals_the_official_code(size):
    for side, (top, left, crop) in zip(GOLDEN["sides"], GOLDEN[f"windows/{size}"], strict=True):
        window = preprocessing._central_window(tf.constant([side, 2 * side + 1]), size, None)
        assert window.numpy().tolist() == [top, left, crop, crop]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_image_of_a_few_pixels_is_cropped_to_at_least_one(kind):
    """A plain image stays plain, whatever its crop."""
    read = tf.function(
        lambda data, seed: (
            image_for_evaluation(data, 8),
            image_for_training(data, 8, seed, random_crop=True, random_flip=True),
            image_for_training(data, 8, seed, random_crop=False, random_flip=False, crop_fraction=0.1),
        ),
        input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec(2, tf.int32)],
    )
    for size in itertools.product((1, 2, 3, 40), repeat=2):
        stream = io.BytesIO()
        Image.new("RGB", size, (120, 120, 120)).save(stream, kind)
        for image in read(stream.getvalue(), SEED):
            np.testing.assert_allclose(image, 120, atol=2)


def test_crop_fraction_one_keeps_the_complete_image():
    image = image_for_evaluation(gradient_png(64, 64), 64, crop_fraction=1.0)
    np.testing.assert_allclose(image[:, 0, 0], np.linspace(0, 255, 64).astype("uint8"), atol=1e-4)


def test_half_pixel_centers_equal_tf_image():
    data = jpeg("square_40x40_444")
    image = image_for_evaluation(data, 48, crop_fraction=1.0, half_pixel_centers=True)
    expected = tf.image.resize(tf.io.decode_jpeg(data, channels=3), (48, 48), "bicubic")
    np.testing.assert_allclose(image, expected, atol=0.01)
    assert np.abs(image - image_for_evaluation(data, 48, crop_fraction=1.0)).max() > 8


def test_grayscale_png_and_gif_become_rgb():
    pixels = tf.constant(np.arange(64, dtype="uint8").reshape(8, 8, 1) * 4)
    image = image_for_evaluation(tf.io.encode_png(pixels), 8, crop_fraction=1.0)
    np.testing.assert_array_equal(image, np.repeat(pixels, 3, axis=2))


def test_random_windows_are_distributed_like_the_official_ones():
    shape = tf.constant(GOLDEN["train_shape"], tf.int32)
    complete = tf.concat([[0, 0], shape], axis=0)

    def draw(index):
        return preprocessing._random_window(shape, tf.stack([7, index]), fallback=complete)

    windows = tf.data.Dataset.range(4000).map(lambda index: draw(tf.cast(index, tf.int32))).batch(4000)
    windows = next(iter(windows)).numpy().astype(float)
    area = windows[:, 2] * windows[:, 3] / np.prod(GOLDEN["train_shape"])
    ratio = windows[:, 3] / windows[:, 2]
    np.testing.assert_allclose(
        np.quantile(area, [0.1, 0.25, 0.5, 0.75, 0.9]), GOLDEN["train_area_quantiles"], atol=0.03
    )
    np.testing.assert_allclose(np.quantile(ratio, [0.1, 0.5, 0.9]), GOLDEN["train_ratio_quantiles"], atol=0.03)


def test_only_the_seed_decides_the_training_image():
    options = {"random_crop": True, "random_flip": True}
    first = image_for_training(jpeg(JPEGS[0]), 32, SEED, **options)
    np.testing.assert_array_equal(image_for_training(jpeg(JPEGS[0]), 32, SEED, **options), first)
    others = [image_for_training(jpeg(JPEGS[0]), 32, tf.constant([1, seed]), **options) for seed in range(3, 6)]
    assert all(np.abs(other - first).max() > 1 for other in others)


def test_half_of_the_training_images_are_mirrored():
    data = tf.io.encode_png(np.tile(np.arange(32, dtype="uint8")[None, :, None] * 8, (32, 1, 3)))
    options = {"random_crop": False, "random_flip": True, "crop_fraction": 1.0}
    images = [image_for_training(data, 32, tf.constant([0, seed]), **options) for seed in range(60)]
    mirrored = sum(bool(image[0, 0, 0] > image[0, -1, 0]) for image in images)
    assert 18 <= mirrored <= 42
    plain = image_for_evaluation(data, 32, crop_fraction=1.0)
    assert all(np.array_equal(image, plain) or np.array_equal(image, plain[:, ::-1]) for image in images)


def test_without_random_crop_training_images_equal_evaluation_images():
    image = image_for_training(gradient_png(), 32, SEED, random_crop=False, random_flip=False)
    np.testing.assert_array_equal(image, image_for_evaluation(gradient_png(), 32))
