"""Random erasing: a rectangle of an image becomes noise.

Source: Zhong et al. 2017, arxiv.org/abs/1708.04896.
"""

import math

import tensorflow as tf

AREA = (0.02, 1 / 3)  # of the image; timm's, the paper has 0.02 to 0.4
RATIO = (0.3, 1 / 0.3)  # height to width; the logarithm is drawn evenly, as in timm, where the paper draws the ratio
ATTEMPTS = 10  # until a rectangle lies within the image; else nothing is erased, as in timm
# of ImageNet's pixels from 0 to 255, by channel: normalised, the noise has mean 0 and deviation 1, as timm's
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


def random_erasing(image, seed, chance: float):
    """Replaces, by a chance, a rectangle by normal noise, another in each pixel and channel.

    Args:
        image: float32 [height, width, 3], from 0 to 255.
        seed: int32 [2]; the same seed gives the same image.
        chance: in [0, 1] that the image is touched.

    Returns:
        float32 [height, width, 3]; the noise is not clipped.
    """
    chance_seed, shape_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))
    size = tf.shape(image)[:2]
    extent, fits = _extent(size, shape_seed)
    room = tf.cast(size - extent + 1, tf.float32)
    corner = tf.cast(tf.random.stateless_uniform((2,), place_seed) * room, tf.int32)
    erases = fits & (tf.random.stateless_uniform((), chance_seed) < chance)
    return tf.cond(erases, lambda: _erase(image, corner, extent, noise_seed), lambda: image)


def _extent(size, seed):
    """(height, width) of the first attempt that is smaller than the image, and whether there is one."""
    area, ratio = tf.unstack(tf.random.stateless_uniform((2, ATTEMPTS), seed))
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * tf.cast(tf.reduce_prod(size), tf.float32)
    ratio = tf.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
    extents = tf.stack([tf.sqrt(area * ratio), tf.sqrt(area / ratio)], axis=1)
    extents = tf.cast(tf.round(extents), tf.int32)
    fits = tf.reduce_all(extents < size, axis=1)
    return extents[tf.argmax(fits)], tf.reduce_any(fits)


def _erase(image, corner, extent, seed):
    noise = tf.constant(MEAN) + tf.constant(DEVIATION) * tf.random.stateless_normal((*tf.unstack(extent), 3), seed)
    after = tf.shape(image)[:2] - corner - extent
    around = tf.concat([tf.stack([corner, after], axis=1), [[0, 0]]], axis=0)
    outside = tf.pad(tf.zeros(extent, tf.bool), around[:2], constant_values=True)
    return tf.where(outside[..., tf.newaxis], image, tf.pad(noise, around))
