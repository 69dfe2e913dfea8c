"""Decodes, crops and resizes encoded images for training and evaluation. Pixels are 0 to 255, not normalised.

Source: github.com/tensorflow/tpu, models/official/efficientnet/preprocessing.py, as pure functions of a seed.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_efficientnet.architectures import Variant
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.decoding import check_size, decode

CROP_PADDING = 32  # pixels that the evaluation crop leaves out at the resolution of the network
CROP_AREA = (0.08, 1.0)  # share of the image, in training; Szegedy et al. 2014, arxiv.org/abs/1409.4842
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_ATTEMPTS = 10
FLIP = (0, 0x1B873593)  # offset from the seed of the crop to the seed of the flip


def make_reader(config: TrainConfig, variant: Variant) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that maps an encoded image to pixels for evaluation, [resolution, resolution, 3].

    Args:
        config: options of the run.
        variant: network, which gives the resolution and the default of each option.
    """
    options = resampling(config, variant)
    return lambda data: image_for_evaluation(data, variant.resolution, **options)


def resampling(config: TrainConfig, variant: Variant) -> dict[str, Any]:
    """Returns how a run crops and resizes, as keyword arguments of `image_for_evaluation`."""
    return {
        "crop_fraction": config.crop_fraction or variant.crop_fraction,
        "interpolation": config.interpolation or variant.interpolation,
        "half_pixel_centers": config.half_pixel_centers,
    }


def image_for_evaluation(
    data: tf.Tensor | bytes,
    size: int,
    *,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    half_pixel_centers: bool = False,
) -> tf.Tensor:
    """Decodes an image, crops its centre and resizes it.

    Args:
        data: an encoded JPEG, PNG, GIF, BMP or WebP of at most 2**27 pixels, a string scalar.
        size: side of the result, in pixels.
        crop_fraction: share of the shorter side to keep, in (0, 1]; size / (size + 32) by default.
        interpolation: "bicubic" or "bilinear", without antialiasing, as in the official code.
        half_pixel_centers: whether to use the sampling grid of PIL, timm and `tf.image.resize` instead of the grid of
            the published checkpoints.

    Returns:
        float32 [size, size, 3], from 0 to 255 except for the overshoot of the bicubic filter.
    """
    image = _decode_window(data, tf.zeros(2, tf.int32), lambda shape, _: _central_window(shape, size, crop_fraction))
    return _resize(image, size, interpolation, half_pixel_centers)


def image_for_training(
    data: tf.Tensor | bytes,
    size: int,
    seed: tf.Tensor,
    *,
    random_crop: bool,
    random_flip: bool,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    half_pixel_centers: bool = False,
) -> tf.Tensor:
    """Decodes an image, crops it at random, resizes it and mirrors it at random.

    Args:
        data: an encoded image, as in `image_for_evaluation`.
        size: side of the result, in pixels.
        seed: int32 [2]; the same seed gives the same image.
        random_crop: whether to crop a random window of 8 to 100 % of the area instead of the centre.
        random_flip: whether to mirror half of the images.
        crop_fraction: as in `image_for_evaluation`; used for the central crop only.
        interpolation: as in `image_for_evaluation`.
        half_pixel_centers: as in `image_for_evaluation`.

    Returns:
        float32 [size, size, 3].
    """

    def choose_window(shape, seed):
        window = _central_window(shape, size, crop_fraction)
        return _random_window(shape, seed, fallback=window) if random_crop else window

    image = _resize(_decode_window(data, seed, choose_window), size, interpolation, half_pixel_centers)
    return _flip_at_random(image, seed + FLIP) if random_flip else image


def _flip_at_random(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors half of the images. `tf.image.stateless_random_flip_left_right` needs three times as many operations."""
    draw = tf.raw_ops.StatelessRandomUniform(shape=tf.zeros(0, tf.int32), seed=seed)
    return tf.cond(draw < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _resize(image: tf.Tensor, size: int, interpolation: str, half_pixel_centers: bool) -> tf.Tensor:
    resize = {"bicubic": tf.raw_ops.ResizeBicubic, "bilinear": tf.raw_ops.ResizeBilinear}[interpolation]
    resized = resize(images=image[tf.newaxis], size=[size, size], half_pixel_centers=half_pixel_centers)
    return tf.reshape(resized, (size, size, 3))


def _decode_window(data: tf.Tensor | bytes, seed: tf.Tensor, choose_window: Callable) -> tf.Tensor:
    """Decodes the window (top, left, height, width) that `choose_window(shape, seed)` returns.

    The shape of a JPEG is known before it is decoded, so only its window is decoded.

    Returns:
        uint8 [height, width, 3].
    """

    def decode_jpeg():
        shape = tf.image.extract_jpeg_shape(data)[:2]
        window = choose_window(shape, seed)
        return tf.image.decode_and_crop_jpeg(check_size(data, shape), window, channels=3)

    def decode_other():
        image = decode(data)
        top, left, height, width = tf.unstack(choose_window(tf.shape(image)[:2], seed))
        return image[top : top + height, left : left + width]

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(data), decode_jpeg, decode_other), (None, None, 3))


def _central_window(shape: tf.Tensor, size: int, crop_fraction: float | None) -> tf.Tensor:
    fraction = size / (size + CROP_PADDING) if crop_fraction is None else crop_fraction
    side = tf.maximum(tf.cast(fraction * tf.cast(tf.reduce_min(shape), tf.float32), tf.int32), 1)
    return tf.concat([(shape - side + 1) // 2, tf.fill([2], side)], axis=0)


def _random_window(shape: tf.Tensor, seed: tf.Tensor, fallback: tf.Tensor) -> tf.Tensor:
    """Returns a random window, or `fallback` if every attempt failed: TensorFlow then returns the complete image."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape, [3]], axis=0),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=CROP_RATIO,
        area_range=CROP_AREA,
        max_attempts=CROP_ATTEMPTS,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    return tf.where(tf.reduce_all(extent[:2] == shape), fallback, window)
