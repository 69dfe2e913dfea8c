"""JPEG or PNG bytes -> the pixels a network takes, in training and in evaluation: 0 to 255, not normalised.

Source: github.com/tensorflow/tpu, models/official/efficientnet/preprocessing.py, in pure functions of a seed.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

PICTURE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # of files that are decoded, in any case
CROP_PADDING = 32  # pixels that evaluation's crop leaves out at the network's resolution
CROP_AREA = (0.08, 1.0)  # of the image, in training; Szegedy et al. 2014, arxiv.org/abs/1409.4842
CROP_RATIO = (3 / 4, 4 / 3)  # width to height
CROP_ATTEMPTS = 10
FLIP = (0, 0x1B873593)  # what its seed is apart from the crop's


def make_reader(config, variant) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from the bytes of a picture to the pixels that evaluation takes, [resolution, resolution, 3].

    Args:
        config: the options, a TrainConfig.
        variant: the network's row: its resolution, and what the options leave open.
    """
    options = resampling(config, variant)
    return lambda data: image_for_evaluation(data, variant.resolution, **options)


def resampling(config, variant) -> dict[str, Any]:
    """How a run crops and resizes: the keyword arguments of `image_for_evaluation`. Arguments as in `make_reader`."""
    return {
        "crop_fraction": config.crop_fraction or variant.crop_fraction,
        "interpolation": config.interpolation or variant.interpolation,
        "half_pixel_centers": config.half_pixel_centers,
    }


def image_for_evaluation(
    data,
    size: int,
    *,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    half_pixel_centers: bool = False,
):
    """The centre of an image.

    Args:
        data: bytes of a JPEG, PNG, GIF or BMP, a string scalar.
        size: side of the result, in pixels.
        crop_fraction: share of the shorter side that is kept, in (0, 1]; size / (size + 32) by default.
        interpolation: "bicubic" or "bilinear", both without antialiasing, as the official code has them.
        half_pixel_centers: the grid of PIL, timm and tf.image.resize; that of the published checkpoints by default.

    Returns:
        float32 [size, size, 3], from 0 to 255 but for the overshoot of the bicubic filter.
    """
    image = _decode_window(data, tf.zeros(2, tf.int32), lambda shape, _: _central_window(shape, size, crop_fraction))
    return _resize(image, size, interpolation, half_pixel_centers)


def image_for_training(
    data,
    size: int,
    seed,
    *,
    random_crop: bool,
    random_flip: bool,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    half_pixel_centers: bool = False,
):
    """A random part of an image, or its centre; perhaps mirrored. Otherwise as `image_for_evaluation`.

    Args:
        data: as there.
        size: as there.
        seed: int32 [2]; the same seed gives the same image.
        random_crop: whether to take a random part, 8 to 100 % of the area; else the centre.
        random_flip: whether to mirror half of the images.
        crop_fraction: of the centre.
        interpolation: as there.
        half_pixel_centers: as there.

    Returns:
        float32 [size, size, 3].
    """

    def choose_window(shape, seed):
        window = _central_window(shape, size, crop_fraction)
        return _random_window(shape, seed, otherwise=window) if random_crop else window

    image = _resize(_decode_window(data, seed, choose_window), size, interpolation, half_pixel_centers)
    return _flip_at_random(image, seed + FLIP) if random_flip else image


def _flip_at_random(image, seed):
    """tf.image.stateless_random_flip_left_right in a third of the operations."""
    draw = tf.raw_ops.StatelessRandomUniform(shape=tf.zeros(0, tf.int32), seed=seed)
    return tf.cond(draw < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _resize(image, size, interpolation, half_pixel_centers):
    resize = {"bicubic": tf.raw_ops.ResizeBicubic, "bilinear": tf.raw_ops.ResizeBilinear}[interpolation]
    resized = resize(images=image[tf.newaxis], size=[size, size], half_pixel_centers=half_pixel_centers)
    return tf.reshape(resized, (size, size, 3))


def _decode_window(data, seed, choose_window):
    """uint8 [height, width, 3]: the window (top, left, height, width) that is chosen by (shape, seed).

    A JPEG tells its shape without being decoded, and is decoded only in the window.
    """

    def of_jpeg():
        return tf.image.decode_and_crop_jpeg(
            data, choose_window(tf.image.extract_jpeg_shape(data)[:2], seed), channels=3
        )

    def of_others():
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        top, left, height, width = tf.unstack(choose_window(tf.shape(image)[:2], seed))
        return image[top : top + height, left : left + width]

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(data), of_jpeg, of_others), (None, None, 3))


def _central_window(shape, size, crop_fraction):
    fraction = size / (size + CROP_PADDING) if crop_fraction is None else crop_fraction
    side = tf.cast(fraction * tf.cast(tf.reduce_min(shape), tf.float32), tf.int32)
    return tf.concat([(shape - side + 1) // 2, tf.fill([2], side)], axis=0)


def _random_window(shape, seed, otherwise):
    """A random window, or `otherwise` where no attempt gave one, which the whole image betrays."""
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
    return tf.where(tf.reduce_all(extent[:2] == shape), otherwise, window)
