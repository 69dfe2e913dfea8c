"""Operations of AutoAugment and RandAugment on uint8 [height, width, 3]. None of them draws random numbers.

Each operation equals Pillow's, with which the policies were found. `..._official` is the version of the code that
trained the published checkpoints (github.com/tensorflow/tpu, autoaugment.py), if it differs.
Sources: Cubuk et al. 2018, arxiv.org/abs/1805.09501; 2019, arxiv.org/abs/1909.13719.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

FILL = 128  # level of pixels from outside the image, and of cut-out pixels
CHANNELS = (0, 256, 512)  # start of the table of each channel when the three tables are concatenated


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to the range 0 to 255."""
    return _stretch(image, tf.float64)


def auto_contrast_official(image: tf.Tensor) -> tf.Tensor:
    """Like `auto_contrast` in single precision, which rounds some levels down by one."""
    return _stretch(image, tf.float32)


def _stretch(image: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    indices = _table_indices(image)
    columns = tf.reshape(tf.stack([tf.reduce_min(indices, axis=0), -tf.reduce_max(indices, axis=0)]), (2, -1, 3))
    limits = tf.constant([[1], [-1]]) * tf.reduce_min(columns, axis=1) - CHANNELS
    lowest, highest = tf.unstack(tf.cast(limits, dtype)[..., tf.newaxis])
    levels = tf.range(256, dtype=dtype)
    scale = 255 / tf.maximum(highest - lowest, 1)
    stretched = tf.clip_by_value(levels * scale - lowest * scale, 0, 255)
    return _look_up(image, indices, tf.where(highest > lowest, stretched, levels))


def _table_indices(image: tf.Tensor) -> tf.Tensor:
    """Returns the index of each level in the concatenated tables of the channels: int32 [height, width * 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return tf.reshape(tf.cast(image, tf.int32), (height, width * 3)) + tf.tile(CHANNELS, [width])


def _look_up(image: tf.Tensor, indices: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    """Returns the levels at `indices` of the tables [3, 256], in the shape of the image."""
    levels = tf.gather_nd(tf.reshape(tf.cast(tables, tf.uint8), [-1]), indices[..., tf.newaxis])
    return tf.reshape(levels, tf.shape(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spreads the levels of each channel so that its histogram becomes as flat as possible."""
    indices = _table_indices(image)
    no_weights = tf.constant([], tf.int32)  # tf.math.bincount would first search for the highest level
    histograms = tf.raw_ops.Bincount(arr=tf.reshape(indices, [-1]), size=768, weights=no_weights)
    sums = tf.cumsum(tf.reshape(histograms, (3, 256)), axis=1, exclusive=True)
    all_pixels = tf.reduce_prod(tf.shape(image)[:2])
    below_highest = tf.reduce_max(tf.where(sums < all_pixels, sums, 0), axis=1, keepdims=True)
    step = below_highest // 255
    spread = tf.clip_by_value((sums + step // 2) // tf.maximum(step, 1), 0, 255)
    return _look_up(image, indices, tf.where(step > 0, spread, tf.range(256)))


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns the negative."""
    return 255 - image


def posterize(image: tf.Tensor, bits: float | tf.Tensor) -> tf.Tensor:
    """Keeps the upper `bits` of each level: 0 gives black, 8 or more the unchanged image."""
    count = tf.clip_by_value(tf.cast(bits, tf.int32), 0, 8)
    mask = tf.bitwise.bitwise_and(tf.bitwise.left_shift(255, 8 - count), 255)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def posterize_official(image: tf.Tensor, bits: float | tf.Tensor) -> tf.Tensor:
    """Like `posterize`, but always keeps a bit: out of the range 1 to 8, `bits` counts as 1."""
    count = tf.cast(bits, tf.int32)
    return posterize(image, tf.where((count < 1) | (count > 8), 1, count))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the levels at or above `threshold`."""
    if threshold > 255:
        return image
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(image >= threshold, tf.uint8))


def solarize_official(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Like `solarize` with the threshold modulo 256: 256 inverts every level."""
    return solarize(image, threshold % 256)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the levels below 128, up to 255."""
    dark = tf.cast(image < 128, tf.uint8)
    return image + tf.minimum(min(addition, 255) * dark, 255 - image)


def blend(start: tf.Tensor | int, end: tf.Tensor | int, factor: float | tf.Tensor) -> tf.Tensor:
    """Interpolates or extrapolates: `factor` 0 gives `start`, 1 gives `end`. Both are images or integers.

    Returns:
        uint8, rounded down.
    """
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    return tf.cast(tf.clip_by_value(start + factor * (end - start), 0, 255), tf.uint8)


def color(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Changes the saturation: `factor` 0 gives grey, 1 the image, more a stronger colour."""
    return blend(tf.reshape(_grey(image, channels=3), tf.shape(image)), image, factor)


def color_official(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Like `color`, with TensorFlow's conversion to grey."""
    return blend(tf.image.rgb_to_grayscale(image), image, factor)


def contrast(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Changes the contrast: `factor` 0 gives the mean grey, 1 the image, more a higher contrast."""
    rows = tf.reduce_sum(tf.reshape(_grey(image), tf.shape(image)[:2]), axis=1)  # integers, so the sum is exact
    mean = tf.reduce_mean(tf.cast(rows, tf.float64)) / tf.cast(tf.shape(image)[1], tf.float64)
    return blend(tf.floor(mean + 0.5), image, factor)


def contrast_official(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Like `contrast`, but from the level pixels / 256 instead of the mean grey."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return blend(tf.cast(tf.minimum(height * width // 256, 255), tf.uint8), image, factor)


def brightness(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Changes the brightness: `factor` 0 gives black, 1 the image, more a brighter image."""
    return blend(0, image, factor)


def sharpness(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Changes the sharpness: `factor` 0 gives a smooth image, 1 the image. The outermost pixels do not change."""
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = tf.cast(tf.reshape(image, (height, width * 3)), tf.float32)  # flattened: 3 steps apart is the next pixel
    inner = rows[1:-1, 3:-3]
    across = rows[:, :-6] + rows[:, 3:-3] + rows[:, 6:]
    total = across[:-2] + across[1:-1] + across[2:] + 4 * inner
    smooth = tf.floor(total * (1 / 13) + 0.5)  # never close to a half, so it rounds like Pillow's integers
    return _framed(image, tf.reshape(blend(smooth, inner, factor), (height - 2, width - 2, 3)))


def sharpness_official(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Like `sharpness`, but rounds the smooth image down in single precision: some levels are one lower."""
    weights = tf.constant([1.0, 1, 1, 1, 5, 1, 1, 1, 1]) * (1 / 13)
    kernel = tf.tile(tf.reshape(weights, (3, 3, 1, 1)), (1, 1, 3, 1))
    smooth = tf.nn.depthwise_conv2d(tf.cast(image, tf.float32)[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    return _framed(image, blend(tf.floor(tf.clip_by_value(smooth, 0, 255)), image[1:-1, 1:-1], factor))


def _framed(image: tf.Tensor, inner: tf.Tensor) -> tf.Tensor:
    """Replaces all of the image except its border of one pixel."""
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], middle, image[-1:]], axis=0)


def _grey(image: tf.Tensor, channels: int = 1) -> tf.Tensor:
    """Returns Pillow's grey levels as integers in float32 [height * width, channels], the same in each channel."""
    weights = tf.constant([[19595.0], [38470.0], [7471.0]]) / 65536  # sums below 2 ** 24: exact on a CPU
    pixels = tf.cast(tf.reshape(image, (-1, 3)), tf.float32)
    return tf.floor(tf.matmul(pixels, tf.repeat(weights, channels, axis=1)) + 0.5)


def rotate(image: tf.Tensor, degrees: float | tf.Tensor) -> tf.Tensor:
    """Rotates about the centre, counter-clockwise."""
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle, half = (tf.cast(tf.shape(image)[axis], tf.float64) / 2 for axis in (1, 0))
    x_row = [cosine, -sine, middle - cosine * middle + sine * half]
    return _move_as_pillow(image, x_row, [sine, cosine, half - sine * middle - cosine * half])


def rotate_official(image: tf.Tensor, degrees: float | tf.Tensor) -> tf.Tensor:
    """Like `rotate` in single precision: positions half-way between two pixels may take the other one."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    right, bottom = (tf.cast(tf.shape(image)[axis] - 1, tf.float32) for axis in (1, 0))
    x_offset = (right - (cosine * right - sine * bottom)) / 2
    y_offset = (bottom - (sine * right + cosine * bottom)) / 2
    return _move(image, [cosine, -sine, x_offset, sine, cosine, y_offset])


def shear_x(image: tf.Tensor, slope: float | tf.Tensor) -> tf.Tensor:
    """Shifts each row by `slope` times its distance from the upper edge."""
    return _move_as_pillow(image, [1, slope, 0], [0, 1, 0])


def shear_x_official(image: tf.Tensor, slope: float | tf.Tensor) -> tf.Tensor:
    """Like `shear_x`, with the distance from the centre of the uppermost row."""
    return _move(image, [1, slope, 0, 0, 1, 0])


def shear_y(image: tf.Tensor, slope: float | tf.Tensor) -> tf.Tensor:
    """Shifts each column by `slope` times its distance from the left edge."""
    return _move_as_pillow(image, [1, 0, 0], [slope, 1, 0])


def shear_y_official(image: tf.Tensor, slope: float | tf.Tensor) -> tf.Tensor:
    """Like `shear_y`, with the distance from the centre of the leftmost column."""
    return _move(image, [1, 0, 0, slope, 1, 0])


def translate_x(image: tf.Tensor, pixels: float | tf.Tensor) -> tf.Tensor:
    """Shifts the image to the left."""
    return _shift(image, pixels, axis=1)


def translate_y(image: tf.Tensor, pixels: float | tf.Tensor) -> tf.Tensor:
    """Shifts the image up."""
    return _shift(image, pixels, axis=0)


def _shift(image: tf.Tensor, pixels: float | tf.Tensor, axis: int) -> tf.Tensor:
    """Cuts off `pixels`, rounded, at the start of an axis and adds as many at its end."""
    length = tf.shape(image)[axis]
    by = tf.clip_by_value(tf.cast(tf.floor(tf.cast(pixels, tf.float64) + 0.5), tf.int32), -length, length)
    ends = tf.stack([tf.maximum(-by, 0), tf.maximum(by, 0)])
    paddings = tf.one_hot(axis, 3, dtype=tf.int32)[:, tf.newaxis] * ends
    padded = tf.pad(image, paddings, constant_values=FILL)
    start = ends[1] * tf.one_hot(axis, 3, dtype=tf.int32)
    return tf.ensure_shape(tf.slice(padded, start, tf.shape(image)), image.shape)


def _move(image: tf.Tensor, coefficients: Sequence) -> tf.Tensor:
    """Moves to (x, y) the pixel nearest to (ax + by + c, dx + ey + f); the coefficients are a to f."""
    row = tf.stack([tf.cast(value, tf.float32) for value in (*coefficients, 0, 0)])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=row[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
    )
    return tf.ensure_shape(moved[0], image.shape)


def _move_as_pillow(image: tf.Tensor, x_row: Sequence, y_row: Sequence) -> tf.Tensor:
    """Like `_move`, with positions from the corner of the image in units of 1 / 65536: ties round as in Pillow."""
    height, width = tf.unstack(tf.shape(image)[:2])
    x, y = tf.range(width)[tf.newaxis], tf.range(height)[:, tf.newaxis]

    def positions(row):
        a, b, c = (tf.cast(value, tf.float64) for value in row)
        a, b, c = (tf.cast(tf.floor(value * 65536 + 0.5), tf.int32) for value in (a, b, c + a / 2 + b / 2))
        return tf.bitwise.right_shift(c + b * y + a * x, 16)

    # a border of one pixel supplies the level of everything outside the image
    columns, rows = tf.clip_by_value(positions(x_row), -1, width), tf.clip_by_value(positions(y_row), -1, height)
    framed = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=FILL)
    return tf.gather(tf.reshape(framed, (-1, 3)), (rows + 1) * (width + 2) + columns + 1)


def cutout(image: tf.Tensor, half: int, center: tf.Tensor) -> tf.Tensor:
    """Fills a square of side 2 * `half` around `center`, (row, column), with grey.

    Source: DeVries & Taylor 2017, arxiv.org/abs/1708.04552.
    """
    rows, columns = (_within(tf.shape(image)[axis], center[axis], half) for axis in (0, 1))
    mask = tf.reshape(255 * rows[:, tf.newaxis] * tf.repeat(columns, 3), tf.shape(image))
    difference = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(image, FILL), mask)  # much faster than tf.where
    return tf.bitwise.bitwise_xor(image, difference)


def _within(length: tf.Tensor, center: tf.Tensor, half: int) -> tf.Tensor:
    """Returns uint8 [length]: 1 from `center` - `half` up to `center` + `half`, else 0."""
    pixels = tf.range(length)
    return tf.cast((pixels >= center - half) & (pixels < center + half), tf.uint8)


class Op(NamedTuple):
    function: Callable  # (uint8 [height, width, 3], argument if there is one) -> uint8 of the same shape
    official: Callable | None = None  # version of the published checkpoints, if it differs
    argument: Callable | None = None  # level, 0 to 10 -> argument of the function
    signed: bool = False  # whether the argument is negative for half of the images


def _factor(level: float) -> float:
    return level / 10 * 1.8 + 0.1


# The official code's `level_to_arg`, in its order; translations and cutout are in pixels, independent of the image
OPS = {
    "AutoContrast": Op(auto_contrast, auto_contrast_official),
    "Equalize": Op(equalize),
    "Invert": Op(invert),
    "Rotate": Op(rotate, rotate_official, lambda level: level / 10 * 30.0, signed=True),
    "Posterize": Op(posterize, posterize_official, lambda level: int(level / 10 * 4)),
    "Solarize": Op(solarize, solarize_official, lambda level: int(level / 10 * 256)),
    "Color": Op(color, color_official, _factor),
    "Contrast": Op(contrast, contrast_official, _factor),
    "Brightness": Op(brightness, None, _factor),
    "Sharpness": Op(sharpness, sharpness_official, _factor),
    "ShearX": Op(shear_x, shear_x_official, lambda level: level / 10 * 0.3, signed=True),
    "ShearY": Op(shear_y, shear_y_official, lambda level: level / 10 * 0.3, signed=True),
    "TranslateX": Op(translate_x, None, lambda level, largest: level / 10 * largest, signed=True),
    "TranslateY": Op(translate_y, None, lambda level, largest: level / 10 * largest, signed=True),
    "Cutout": Op(cutout, None, lambda level, largest: int(level / 10 * largest)),
    "SolarizeAdd": Op(solarize_add, None, lambda level: int(level / 10 * 110)),
}


def apply_op(
    image: tf.Tensor,
    name: str,
    level: float,
    draws: tf.Tensor,
    *,
    largest: Mapping[str, int] | None = None,
    official: bool = False,
) -> tf.Tensor:
    """Applies an operation of OPS.

    Args:
        image: uint8 [height, width, 3].
        name: key of OPS.
        level: strength, 0 to 10 or more.
        draws: float32 [3] from [0, 1): decide the sign of the argument, and row and column of the centre of a cutout.
        largest: pixels at level 10 of TranslateX, TranslateY and Cutout, by name.
        official: whether to use the version of the published checkpoints instead of Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    op = OPS[name]
    function = op.official if official and op.official else op.function
    if op.argument is None:
        return function(image)
    argument = op.argument(level, largest[name]) if largest and name in largest else op.argument(level)
    if op.signed:
        argument *= tf.where(draws[0] < 0.5, tf.constant(-1.0, tf.float64), 1.0)
    if name == "Cutout":
        center = draws[1:] * tf.cast(tf.shape(image)[:2], tf.float32)
        return function(image, argument, tf.cast(center, tf.int32))
    return function(image, argument)
