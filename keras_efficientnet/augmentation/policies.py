"""Pixels -> other pixels: policies that choose among operations, by the seed that they are given."""

import functools
import math

import tensorflow as tf

from keras_efficientnet.augmentation.erasing import random_erasing
from keras_efficientnet.augmentation.operations import OPS, apply_op

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


AUTOAUGMENT_MOST = {
    "TranslateX": 250,
    "TranslateY": 250,
    "Cutout": 100,
}  # pixels at level 10, whatever the image's size
RANDAUGMENT_MOST = {"TranslateX": 100, "TranslateY": 100, "Cutout": 40}

# Cubuk et al. 2018, arxiv.org/abs/1805.09501: the policy found on ImageNet, the official "v0". Operation, chance, level
# fmt: off
POLICY_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)
# fmt: on


def autoaugment(image, seed, *, official: bool = False):
    """AutoAugment: one of the policy's 25 pairs of operations, each of which is applied by its chance.

    Args:
        image: uint8 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.
        official: the version of the published checkpoints, not Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    draws = tf.random.stateless_uniform((9,), seed)
    index = tf.cast(len(POLICY_V0) * draws[0], tf.int32)
    for place, own in enumerate((draws[1:5], draws[5:])):
        kinds = sorted({(pair[place][0], pair[place][2]) for pair in POLICY_V0})
        branches = [
            functools.partial(_apply, name=name, level=level, most=AUTOAUGMENT_MOST, official=official)
            for name, level in kinds
        ]
        numbers = tf.constant([kinds.index((pair[place][0], pair[place][2])) for pair in POLICY_V0])
        applies = own[0] < tf.gather(tf.constant([pair[place][1] for pair in POLICY_V0]), index)
        number = tf.where(applies, tf.gather(numbers, index), len(kinds))
        image = _choose(number, [*branches, _leave], image, own[1:])
    return image


def randaugment(image, seed, *, num_layers: int = 2, magnitude: float = 10, official: bool = False):
    """RandAugment, arxiv.org/abs/1909.13719: `num_layers` operations, drawn from all sixteen, at level `magnitude`.

    Args:
        image: uint8 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.
        num_layers: operations an image.
        magnitude: their level, 0 to 10, and beyond: the official recipe has 17 for B5, and 28 for B7 and B8.
        official: the version of the published checkpoints, not Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    branches = [
        functools.partial(_apply, name=name, level=magnitude, most=RANDAUGMENT_MOST, official=official) for name in OPS
    ]
    for draws in tf.unstack(tf.random.stateless_uniform((num_layers, 4), seed)):
        image = _choose(tf.cast(len(OPS) * draws[0], tf.int32), branches, image, draws[1:])
    return image


def _apply(image, draws, *, name, level, **options):
    return apply_op(image, name, level, draws, **options)


def _leave(image, draws):
    return image


def _choose(number, branches, image, draws):
    """What branch `number` makes of the image and the draws.

    tf.switch_case does the same, but in a pipeline it visits every node of every branch: with AutoAugment's 50 branches
    that took longer than the operations. Here only the branch that is taken costs time.
    """
    if tf.executing_eagerly():
        return branches[int(number)](image, draws)
    functions = [tf.function(branch, autograph=False).get_concrete_function(image, draws) for branch in branches]
    chosen = tf.raw_ops.StatelessCase(
        branch_index=number, input=[image, draws], Tout=[image.dtype], branches=functions, output_shapes=[image.shape]
    )
    return tf.ensure_shape(chosen[0], image.shape)


def make_augmentation(
    name: str | None, *, num_layers: int = 2, magnitude: float = 10, official: bool = False, erasing: float = 0.0
):
    """The augmentation called so, as a function (float32 [height, width, 3] from 0 to 255, seed) -> the same, or None.

    Args:
        name: None, "affine", "autoaugment" or "randaugment".
        num_layers: of RandAugment.
        magnitude: of RandAugment.
        official: the version of the published checkpoints, not Pillow's.
        erasing: chance in [0, 1] of random erasing, which comes after the other.
    """
    policies = {
        "autoaugment": functools.partial(autoaugment, official=official),
        "randaugment": functools.partial(randaugment, num_layers=num_layers, magnitude=magnitude, official=official),
    }
    augment = random_affine if name == "affine" else _in_floats(policies[name]) if name else None
    return _then_erased(augment, erasing) if erasing else augment


def _in_floats(policy):
    def augment(image, seed):
        levels = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
        return tf.ensure_shape(tf.cast(policy(levels, seed), tf.float32), image.shape)

    return augment


def _then_erased(augment, chance):
    def augment_and_erase(image, seed):
        changed = augment(image, seed) if augment else image
        return random_erasing(changed, tf.random.fold_in(seed, 1), chance)

    return augment_and_erase
