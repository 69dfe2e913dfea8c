"""Pixels -> other pixels: one operation, one function. Chance comes from the seed that is given."""

import math

import tensorflow as tf

TURN = math.radians(8.6)  # largest angle
SCALE = 0.1  # largest change of size, as a share
SHEAR = 0.1  # largest
SHIFT = 0.05  # largest, as a share of the side


def random_affine(image, seed):
    """Turns, scales, shears and shifts a little about the centre; what enters from outside is black.

    Args:
        image: float32 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.

    Returns:
        float32 [height, width, 3], bilinear.
    """
    turn, scale, shear, down, right = tf.unstack(tf.random.stateless_uniform((5,), seed, -1.0, 1.0))
    height, width = image.shape[:2]
    angle = TURN * turn
    zoom = 1.0 / (1.0 + SCALE * scale)
    matrix = zoom * tf.stack(
        [
            [tf.cos(angle), SHEAR * shear - tf.sin(angle)],
            [tf.sin(angle), tf.cos(angle)],
        ]
    )
    centre = tf.constant([(width - 1) / 2, (height - 1) / 2])
    shift = SHIFT * tf.stack([width * right, height * down])
    return transform(image, matrix, centre - tf.linalg.matvec(matrix, centre + shift))


def transform(image, matrix, offset):
    """The image whose pixel (x, y) is the old one's at `matrix` (x, y) + `offset`; bilinear, black outside.

    Args:
        image: float32 [height, width, 3].
        matrix: [2, 2].
        offset: [2], in pixels.

    Returns:
        float32 [height, width, 3].
    """
    coefficients = tf.concat([matrix[0], offset[:1], matrix[1], offset[1:], [0.0, 0.0]], axis=0)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=coefficients[tf.newaxis],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
    )
    return tf.ensure_shape(moved[0], image.shape)


AUGMENTATIONS = {None: None, "affine": random_affine}
