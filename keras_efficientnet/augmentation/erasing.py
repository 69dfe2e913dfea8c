"""Random erasing: replaces a random rectangle of an image by noise.

Source: Zhong et al. 2017, arxiv.org/abs/1708.04896.
"""

import math

import tensorflow as tf

AREA = (0.02, 1 / 3)  # share of the image, as in timm; the paper has 0.02 to 0.4
RATIO = (0.3, 1 / 0.3)  # height / width; its logarithm is uniform, as in timm; in the paper the ratio itself is
ATTEMPTS = 10  # to find a rectangle smaller than the image; if all fail, nothing is erased, as in timm
# ImageNet's statistics for pixels from 0 to 255: normalised noise then has mean 0 and deviation 1, as in timm
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, chance: float) -> tf.Tensor:
    """Replaces a random rectangle by normal noise, which differs in each pixel and channel.

    Args:
        image: float32 [height, width, 3], from 0 to 255.
        seed: int32 [2]; the same seed gives the same image.
        chance: probability in [0, 1] that the image is changed.

    Returns:
        float32 [height, width, 3]; the noise is not clipped.
    """
    chance_seed, size_seed, corner_seed, noise_seed = tf.unstack(tf.random.split(seed, 4))
    image_size = tf.shape(image)[:2]
    size, fits = _choose_size(image_size, size_seed)
    free = tf.cast(image_size - size + 1, tf.float32)
    corner = tf.cast(tf.random.stateless_uniform((2,), corner_seed) * free, tf.int32)
    erases = fits & (tf.random.stateless_uniform((), chance_seed) < chance)
    return tf.cond(erases, lambda: _erase(image, corner, size, noise_seed), lambda: image)


def _choose_size(image_size: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width) of the first rectangle that is smaller than the image, and whether there is one."""
    area, ratio = tf.unstack(tf.random.stateless_uniform((2, ATTEMPTS), seed))
    area = (AREA[0] + (AREA[1] - AREA[0]) * area) * tf.cast(tf.reduce_prod(image_size), tf.float32)
    ratio = tf.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
    sizes = tf.stack([tf.sqrt(area * ratio), tf.sqrt(area / ratio)], axis=1)
    sizes = tf.cast(tf.round(sizes), tf.int32)
    fits = tf.reduce_all(sizes < image_size, axis=1)
    return sizes[tf.argmax(fits)], tf.reduce_any(fits)


def _erase(image: tf.Tensor, corner: tf.Tensor, size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    noise = tf.constant(MEAN) + tf.constant(DEVIATION) * tf.random.stateless_normal((*tf.unstack(size), 3), seed)
    after = tf.shape(image)[:2] - corner - size
    paddings = tf.concat([tf.stack([corner, after], axis=1), [[0, 0]]], axis=0)
    outside = tf.pad(tf.zeros(size, tf.bool), paddings[:2], constant_values=True)
    return tf.where(outside[..., tf.newaxis], image, tf.pad(noise, paddings))
