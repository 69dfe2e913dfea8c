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
CHANNELS = (0, 256, 512)  # where the table of a channel begins, when those of all are laid end to end


def auto_contrast(image):
    """Stretches each channel to 0 to 255."""
    return _stretch(image, tf.float64)


def auto_contrast_official(image):
    """In single precision, which lands a level lower here and there."""
    return _stretch(image, tf.float32)


def _stretch(image, dtype):
    places = _places(image)
    columns = tf.reshape(tf.stack([tf.reduce_min(places, axis=0), -tf.reduce_max(places, axis=0)]), (2, -1, 3))
    lowest, highest = tf.unstack(
        tf.cast([[1], [-1]] * tf.reduce_min(columns, axis=1) - CHANNELS, dtype)[..., tf.newaxis]
    )
    levels = tf.range(256, dtype=dtype)
    scale = 255 / tf.maximum(highest - lowest, 1)
    stretched = tf.clip_by_value(levels * scale - lowest * scale, 0, 255)
    return _look_up(image, places, tf.where(highest > lowest, stretched, levels))


def _places(image):
    """Of each level its place in the tables of the channels laid end to end: int32 [height, width * 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return tf.reshape(tf.cast(image, tf.int32), (height, width * 3)) + tf.tile(CHANNELS, [width])


def _look_up(image, places, tables):
    """The levels at those places of the tables [3, 256], in the shape of the image."""
    levels = tf.gather_nd(tf.reshape(tf.cast(tables, tf.uint8), [-1]), places[..., tf.newaxis])
    return tf.reshape(levels, tf.shape(image))


def equalize(image):
    """Spreads each channel's levels evenly: the histogram becomes as flat as it can."""
    places = _places(image)
    no_weights = tf.constant([], tf.int32)  # tf.math.bincount would look for the highest first
    histograms = tf.raw_ops.Bincount(arr=tf.reshape(places, [-1]), size=768, weights=no_weights)
    sums = tf.cumsum(tf.reshape(histograms, (3, 256)), axis=1, exclusive=True)
    all_pixels = tf.reduce_prod(tf.shape(image)[:2])
    below_highest = tf.reduce_max(tf.where(sums < all_pixels, sums, 0), axis=1, keepdims=True)
    step = below_highest // 255
    spread = tf.clip_by_value((sums + step // 2) // tf.maximum(step, 1), 0, 255)
    return _look_up(image, places, tf.where(step > 0, spread, tf.range(256)))


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
    if threshold > 255:
        return image
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(image >= threshold, tf.uint8))


def solarize_official(image, threshold: int):
    """With a threshold that begins again at 0 after 255: 256 inverts all."""
    return solarize(image, threshold % 256)


def solarize_add(image, addition: int):
    """Adds to the levels below 128."""
    dark = tf.cast(image < 128, tf.uint8)
    return image + tf.minimum(min(addition, 255) * dark, 255 - image)


def blend(start, end, factor):
    """From `start` at 0 over `end` at 1 and beyond, rounded down to uint8; both are images or whole numbers."""
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    return tf.cast(tf.clip_by_value(start + factor * (end - start), 0, 255), tf.uint8)


def color(image, factor):
    """From grey at 0 over the image at 1 to gaudy."""
    return blend(tf.reshape(_grey(image, channels=3), tf.shape(image)), image, factor)


def color_official(image, factor):
    """With TensorFlow's grey."""
    return blend(tf.image.rgb_to_grayscale(image), image, factor)


def contrast(image, factor):
    """From the mean grey at 0 over the image at 1 to stark."""
    rows = tf.reduce_sum(tf.reshape(_grey(image), tf.shape(image)[:2]), axis=1)  # whole numbers: exact
    mean = tf.reduce_mean(tf.cast(rows, tf.float64)) / tf.cast(tf.shape(image)[1], tf.float64)
    return blend(tf.floor(mean + 0.5), image, factor)


def contrast_official(image, factor):
    """From a level that is not the mean but the number of pixels, over 256."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return blend(tf.cast(tf.minimum(height * width // 256, 255), tf.uint8), image, factor)


def brightness(image, factor):
    """From black at 0 over the image at 1 to glaring."""
    return blend(0, image, factor)


def sharpness(image, factor):
    """From a smooth image at 0 over the image at 1 to one with hard edges. The outermost pixels stay."""
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = tf.cast(tf.reshape(image, (height, width * 3)), tf.float32)  # flat: steps of 3 are neighbours
    inner = rows[1:-1, 3:-3]
    across = rows[:, :-6] + rows[:, 3:-3] + rows[:, 6:]
    total = across[:-2] + across[1:-1] + across[2:] + 4 * inner
    smooth = tf.floor(total * (1 / 13) + 0.5)  # never near a half: rounds as Pillow's integers
    return _framed(image, tf.reshape(blend(smooth, inner, factor), (height - 2, width - 2, 3)))


def sharpness_official(image, factor):
    """The smooth image is rounded down, from single precision: whole numbers may fall to the one below."""
    weights = tf.constant([1.0, 1, 1, 1, 5, 1, 1, 1, 1]) * (1 / 13)
    kernel = tf.tile(tf.reshape(weights, (3, 3, 1, 1)), (1, 1, 3, 1))
    smooth = tf.nn.depthwise_conv2d(tf.cast(image, tf.float32)[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    return _framed(image, blend(tf.floor(tf.clip_by_value(smooth, 0, 255)), image[1:-1, 1:-1], factor))


def _framed(image, inner):
    """The image with other levels within its border of one pixel."""
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], middle, image[-1:]], axis=0)


def _grey(image, channels: int = 1):
    """Pillow's: whole numbers in float32 [height * width, channels], all channels alike."""
    weights = tf.constant([[19595.0], [38470.0], [7471.0]]) / 65536  # sums below 2 ** 24 parts: exact on a CPU
    pixels = tf.cast(tf.reshape(image, (-1, 3)), tf.float32)
    return tf.floor(tf.matmul(pixels, tf.repeat(weights, channels, axis=1)) + 0.5)


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
    return _shift(image, pixels, axis=1)


def translate_y(image, pixels):
    """Shifts up."""
    return _shift(image, pixels, axis=0)


def _shift(image, pixels, axis):
    """Cuts off `pixels` before the image, rounded, and adds as many behind it."""
    length = tf.shape(image)[axis]
    by = tf.clip_by_value(tf.cast(tf.floor(tf.cast(pixels, tf.float64) + 0.5), tf.int32), -length, length)
    ends = tf.stack([tf.maximum(-by, 0), tf.maximum(by, 0)])
    paddings = tf.one_hot(axis, 3, dtype=tf.int32)[:, tf.newaxis] * ends
    padded = tf.pad(image, paddings, constant_values=FILL)
    start = ends[1] * tf.one_hot(axis, 3, dtype=tf.int32)
    return tf.ensure_shape(tf.slice(padded, start, tf.shape(image)), image.shape)


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

    # a frame of one pixel holds what comes from outside
    columns, rows = tf.clip_by_value(places(across), -1, width), tf.clip_by_value(places(down), -1, height)
    framed = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=FILL)
    return tf.gather(tf.reshape(framed, (-1, 3)), (rows + 1) * (width + 2) + columns + 1)


def cutout(image, half, center):
    """Greys out a square of twice `half` about `center`, (row, column).

    Source: DeVries & Taylor 2017, arxiv.org/abs/1708.04552.
    """
    down, across = (_within(tf.shape(image)[axis], center[axis], half) for axis in (0, 1))
    mask = tf.reshape(255 * down[:, tf.newaxis] * tf.repeat(across, 3), tf.shape(image))
    difference = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(image, FILL), mask)  # much faster than tf.where
    return tf.bitwise.bitwise_xor(image, difference)


def _within(length, center, half):
    """1 from `half` before `center` to as far behind it, else 0: uint8 [length]."""
    places = tf.range(length)
    return tf.cast((places >= center - half) & (places < center + half), tf.uint8)


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


def apply_op(image, name: str, level: float, draws, *, most=None, official: bool = False):
    """Applies an operation; its sign and the place of a cutout come from the draws.

    Args:
        image: uint8 [height, width, 3].
        name: one of OPS.
        level: 0 to 10, and beyond.
        draws: float32 [3] from [0, 1): whether the argument is negative, and row and column of a cutout's centre.
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
        argument *= tf.where(draws[0] < 0.5, tf.constant(-1.0, tf.float64), 1.0)
    if name == "Cutout":
        place = draws[1:] * tf.cast(tf.shape(image)[:2], tf.float32)
        return function(image, argument, tf.cast(place, tf.int32))
    return function(image, argument)
