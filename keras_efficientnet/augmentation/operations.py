"""The operations of AutoAugment and RandAugment: uint8 [height, width, 3] -> the same. None has chance of its own.

Each does what Pillow does, which the policies were searched with. Where the code that trained the published
checkpoints, github.com/tensorflow/tpu, autoaugment.py, does something else, its version stands beside, `_official`.
Sources: Cubuk et al. 2018, arxiv.org/abs/1805.09501; 2019, arxiv.org/abs/1909.13719.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

FILL = 128  # of pixels that come from outside the image, or are cut out


def auto_contrast(image):
    """Stretches each channel to 0 to 255."""
    return _stretch(image, tf.float64)


def auto_contrast_official(image):
    """In single precision, which lands a level lower here and there."""
    return _stretch(image, tf.float32)


def _stretch(image, dtype):
    lowest, highest = (tf.cast(f(image, axis=(0, 1)), dtype)[:, tf.newaxis] for f in (tf.reduce_min, tf.reduce_max))
    levels = tf.range(256, dtype=dtype)
    scale = 255 / tf.maximum(highest - lowest, 1)
    stretched = tf.clip_by_value(levels * scale - lowest * scale, 0, 255)
    return _look_up(image, tf.where(highest > lowest, stretched, levels))


def _look_up(image, tables):
    """The level in the table [3, 256] of its channel in place of each level."""
    places = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])
    return tf.gather(tf.reshape(tf.cast(tables, tf.uint8), [-1]), places)


def equalize(image):
    """Spreads each channel's levels evenly: the histogram becomes as flat as it can."""
    places = tf.reshape(tf.cast(image, tf.int32) + tf.constant([0, 256, 512]), [-1])
    histograms = tf.reshape(tf.math.bincount(places, minlength=768, maxlength=768), (3, 256))
    last = tf.gather(histograms, tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.int32), axis=1, batch_dims=0)
    step = (tf.reduce_sum(histograms, axis=1) - tf.linalg.diag_part(last))[:, tf.newaxis] // 255
    sums = tf.cumsum(histograms, axis=1, exclusive=True)
    spread = tf.clip_by_value((sums + step // 2) // tf.maximum(step, 1), 0, 255)
    return _look_up(image, tf.where(step > 0, spread, tf.range(256)))


def invert(image):
    """The negative."""
    return 255 - image


def posterize(image, bits):
    """Keeps the upper `bits` of each level: none leaves black, 8 or more the image."""
    kept = tf.clip_by_value(tf.cast(bits, tf.int32), 0, 8)
    mask = tf.bitwise.bitwise_and(tf.bitwise.left_shift(255, 8 - kept), 255)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def posterize_official(image, bits):
    """Shifts by 7 at most, and by 7 where there is nothing to shift: the uppermost bit is always kept."""
    kept = tf.cast(bits, tf.int32)
    return posterize(image, tf.where((kept < 1) | (kept > 8), 1, kept))


def solarize(image, threshold: int):
    """Inverts the levels at or above `threshold`."""
    return tf.where(image < threshold, image, 255 - image) if threshold < 256 else image


def solarize_official(image, threshold: int):
    """With a threshold that begins again at 0 after 255: 256 inverts all."""
    return solarize(image, threshold % 256)


def solarize_add(image, addition: int):
    """Adds to the levels below 128."""
    addition = min(addition, 255)
    return tf.where(image < 128, tf.minimum(image, 255 - addition) + addition, image)


def blend(start, end, factor):
    """From `start` at 0 over `end` at 1 and beyond; uint8 images. Rounds down."""
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    return tf.cast(tf.clip_by_value(start + factor * (end - start), 0, 255), tf.uint8)


def color(image, factor):
    """From grey at 0 over the image at 1 to gaudy."""
    return blend(_grey(image), image, factor)


def color_official(image, factor):
    """With TensorFlow's grey."""
    return blend(tf.image.rgb_to_grayscale(image), image, factor)


def contrast(image, factor):
    """From the mean grey at 0 over the image at 1 to stark."""
    grey = tf.cast(_grey(image), tf.float64)
    return blend(tf.cast(tf.reduce_mean(grey) + 0.5, tf.uint8), image, factor)


def contrast_official(image, factor):
    """From a level that is not the mean but the number of pixels, over 256."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return blend(tf.cast(tf.minimum(height * width // 256, 255), tf.uint8), image, factor)


def brightness(image, factor):
    """From black at 0 over the image at 1 to glaring."""
    return blend(tf.zeros_like(image), image, factor)


def sharpness(image, factor):
    """From a smooth image at 0 over the image at 1 to one with hard edges. The outermost pixels stay."""
    total = tf.cast(_sum_of_nine(image, 1.0), tf.int32)  # whole numbers: exact in single precision
    return blend(_smooth(image, (2 * total + 13) // 26), image, factor)


def sharpness_official(image, factor):
    """The smooth image is rounded down, from single precision: whole numbers may fall to the one below."""
    smooth = tf.clip_by_value(_sum_of_nine(image, 1 / 13), 0, 255)
    return blend(_smooth(image, tf.cast(smooth, tf.int32)), image, factor)


def _sum_of_nine(image, scale):
    """Of each pixel, five times, and its eight neighbours, times `scale`: float32 [height - 2, width - 2, 3]."""
    weights = tf.constant([1.0, 1, 1, 1, 5, 1, 1, 1, 1]) * scale
    kernel = tf.tile(tf.reshape(weights, (3, 3, 1, 1)), (1, 1, 3, 1))
    return tf.nn.depthwise_conv2d(tf.cast(image, tf.float32)[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]


def _smooth(image, inner):
    """The image with other levels within its border of one pixel."""
    around = [[1, 1], [1, 1], [0, 0]]
    is_inner = tf.pad(tf.ones_like(inner, tf.bool), around)
    return tf.where(is_inner, tf.cast(tf.pad(inner, around), tf.uint8), image)


def _grey(image):
    """Pillow's: uint8 [height, width, 1]."""
    weighted = tf.cast(image, tf.float32) * tf.constant([19595.0, 38470.0, 7471.0])  # sums below 2 ** 24: exact
    return tf.cast((tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000) / 65536, tf.uint8)


def rotate(image, degrees):
    """Turns about the centre, counter-clockwise."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle, half = (tf.cast(tf.shape(image)[axis], tf.float64) / 2 for axis in (1, 0))
    across = [cosine, -sine, middle - cosine * middle + sine * half]
    return _move_as_pillow(image, across, [sine, cosine, half - sine * middle - cosine * half])


def rotate_official(image, degrees):
    """In single precision; places half-way between two pixels may fall to the other."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    right, bottom = (tf.cast(tf.shape(image)[axis] - 1, tf.float32) for axis in (1, 0))
    across = (right - (cosine * right - sine * bottom)) / 2
    down = (bottom - (sine * right + cosine * bottom)) / 2
    return _move(image, [cosine, -sine, across, sine, cosine, down])


def shear_x(image, slope):
    """Shifts each row by `slope` times its place, counted from the upper edge."""
    return _move_as_pillow(image, [1, slope, 0], [0, 1, 0])


def shear_x_official(image, slope):
    """With the place counted from the centre of the uppermost row."""
    return _move(image, [1, slope, 0, 0, 1, 0])


def shear_y(image, slope):
    """Shifts each column by `slope` times its place, counted from the left edge."""
    return _move_as_pillow(image, [1, 0, 0], [slope, 1, 0])


def shear_y_official(image, slope):
    """With the place counted from the centre of the leftmost column."""
    return _move(image, [1, 0, 0, slope, 1, 0])


def translate_x(image, pixels):
    """Shifts to the left."""
    return _move(image, [1, 0, pixels, 0, 1, 0])


def translate_y(image, pixels):
    """Shifts up."""
    return _move(image, [1, 0, 0, 0, 1, pixels])


def _move(image, coefficients):
    """The image whose pixel (x, y) is the old one's nearest to (ax + by + c, dx + ey + f), for these six."""
    row = tf.stack([tf.cast(value, tf.float32) for value in (*coefficients, 0, 0)])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=row[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
    )
    return tf.ensure_shape(moved[0], image.shape)


def _move_as_pillow(image, across, down):
    """As `_move`, with places counted from the image's corner, in whole parts of 1 / 65536: ties fall as in Pillow."""
    height, width = tf.unstack(tf.shape(image)[:2])
    x, y = tf.range(width)[tf.newaxis], tf.range(height)[:, tf.newaxis]

    def places(row):
        a, b, c = (tf.cast(value, tf.float64) for value in row)
        a, b, c = (tf.cast(tf.floor(value * 65536 + 0.5), tf.int32) for value in (a, b, c + a / 2 + b / 2))
        return tf.bitwise.right_shift(c + b * y + a * x, 16)

    columns, rows = places(across), places(down)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    pixels = tf.pad(tf.reshape(image, (-1, 3)), [[0, 1], [0, 0]], constant_values=FILL)  # the last: from outside
    return tf.gather(pixels, tf.where(inside, rows * width + columns, height * width))


def cutout(image, half, center):
    """Greys out a square of twice `half` about `center`, (row, column).

    Source: DeVries & Taylor 2017, arxiv.org/abs/1708.04552.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    rows, columns = tf.range(height)[:, tf.newaxis], tf.range(width)[tf.newaxis]
    half = tf.cast(half, tf.int32)
    inside = (rows >= center[0] - half) & (rows < center[0] + half)
    inside &= (columns >= center[1] - half) & (columns < center[1] + half)
    return tf.where(inside[..., tf.newaxis], tf.constant(FILL, tf.uint8), image)


class Op(NamedTuple):
    function: Callable  # uint8 [height, width, 3], and the argument if there is one -> the same
    official: Callable | None = None  # what the code of the checkpoints does instead
    argument: Callable | None = None  # of the level: 0 leaves most of the image alone or not at all, 10 is strong
    signed: bool = False  # half of the images take the negative of the argument


# The official code's `level_to_arg`, and its order; translate and cutout are in pixels, whatever the image's size
FACTOR = lambda level: level / 10 * 1.8 + 0.1  # noqa: E731
OPS = {
    "AutoContrast": Op(auto_contrast, auto_contrast_official),
    "Equalize": Op(equalize),
    "Invert": Op(invert),
    "Rotate": Op(rotate, rotate_official, lambda level: level / 10 * 30.0, signed=True),
    "Posterize": Op(posterize, posterize_official, lambda level: int(level / 10 * 4)),
    "Solarize": Op(solarize, solarize_official, lambda level: int(level / 10 * 256)),
    "Color": Op(color, color_official, FACTOR),
    "Contrast": Op(contrast, contrast_official, FACTOR),
    "Brightness": Op(brightness, None, FACTOR),
    "Sharpness": Op(sharpness, sharpness_official, FACTOR),
    "ShearX": Op(shear_x, shear_x_official, lambda level: level / 10 * 0.3, signed=True),
    "ShearY": Op(shear_y, shear_y_official, lambda level: level / 10 * 0.3, signed=True),
    "TranslateX": Op(translate_x, None, lambda level, most: level / 10 * most, signed=True),
    "TranslateY": Op(translate_y, None, lambda level, most: level / 10 * most, signed=True),
    "Cutout": Op(cutout, None, lambda level, most: int(level / 10 * most)),
    "SolarizeAdd": Op(solarize_add, None, lambda level: int(level / 10 * 110)),
}


def apply_op(image, name: str, level: float, seed, *, most=None, official: bool = False):
    """Applies an operation; its sign and the place of a cutout come from the seed.

    Args:
        image: uint8 [height, width, 3].
        name: one of OPS.
        level: 0 to 10, and beyond.
        seed: int32 [2].
        most: pixels at level 10 of TranslateX, TranslateY and Cutout, by name.
        official: the version of the published checkpoints, not Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    op = OPS[name]
    function = op.official if official and op.official else op.function
    if op.argument is None:
        return function(image)
    argument = op.argument(level, most[name]) if most and name in most else op.argument(level)
    if op.signed:
        sign = tf.where(tf.random.stateless_uniform((), seed) < 0.5, -1.0, 1.0)
        argument = tf.cast(sign, tf.float64) * argument
    if name == "Cutout":
        place = tf.random.stateless_uniform((2,), seed) * tf.cast(tf.shape(image)[:2], tf.float32)
        return function(image, argument, tf.cast(place, tf.int32))
    return function(image, argument)
