"""Augmentation policies: choose operations and their strength by a seed."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_efficientnet.augmentation.erasing import random_erasing
from keras_efficientnet.augmentation.operations import OPS, apply_op

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (image, seed) -> image of the same shape and type

# largest values of `random_affine`
ANGLE = math.radians(8.6)
SCALE = 0.1  # relative change of the size
SHEAR = 0.1
SHIFT = 0.05  # share of the side


def random_affine(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rotates, scales, shears and shifts an image slightly about its centre. Pixels from outside are black.

    Args:
        image: float32 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.

    Returns:
        float32 [height, width, 3], bilinear.
    """
    rotation, scale, shear, down, right = tf.unstack(tf.random.stateless_uniform((5,), seed, -1.0, 1.0))
    height, width = image.shape[:2]
    angle = ANGLE * rotation
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


def transform(image: tf.Tensor, matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Returns the image whose pixel (x, y) is that of `image` at `matrix` (x, y) + `offset`: bilinear, black outside.

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


# pixels at level 10, independent of the size of the image
AUTOAUGMENT_LARGEST = {"TranslateX": 250, "TranslateY": 250, "Cutout": 100}
RANDAUGMENT_LARGEST = {"TranslateX": 100, "TranslateY": 100, "Cutout": 40}

# Cubuk et al. 2018, arxiv.org/abs/1805.09501: policy found on ImageNet, the official "v0": operation, chance, level
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


def autoaugment(image: tf.Tensor, seed: tf.Tensor, *, official: bool = False) -> tf.Tensor:
    """Draws one of the 25 pairs of AutoAugment and applies each of its operations with its chance.

    Args:
        image: uint8 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.
        official: whether to use the operations of the published checkpoints instead of Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    draws = tf.random.stateless_uniform((9,), seed)
    index = tf.cast(len(POLICY_V0) * draws[0], tf.int32)
    for step, step_draws in enumerate((draws[1:5], draws[5:])):
        kinds = sorted({(pair[step][0], pair[step][2]) for pair in POLICY_V0})
        branches = [
            functools.partial(_apply, name=name, level=level, largest=AUTOAUGMENT_LARGEST, official=official)
            for name, level in kinds
        ]
        numbers = tf.constant([kinds.index((pair[step][0], pair[step][2])) for pair in POLICY_V0])
        applies = step_draws[0] < tf.gather(tf.constant([pair[step][1] for pair in POLICY_V0]), index)
        number = tf.where(applies, tf.gather(numbers, index), len(kinds))
        image = _choose(number, [*branches, _leave], image, step_draws[1:])
    return image


def randaugment(
    image: tf.Tensor, seed: tf.Tensor, *, num_layers: int = 2, magnitude: float = 10, official: bool = False
) -> tf.Tensor:
    """Applies `num_layers` random operations at level `magnitude`: RandAugment, arxiv.org/abs/1909.13719.

    Args:
        image: uint8 [height, width, 3].
        seed: int32 [2]; the same seed gives the same image.
        num_layers: number of operations per image.
        magnitude: level of the operations, 0 to 10 or more: the official recipe has 17 for B5, and 28 for B7 and B8.
        official: whether to use the operations of the published checkpoints instead of Pillow's.

    Returns:
        uint8 [height, width, 3].
    """
    branches = [
        functools.partial(_apply, name=name, level=magnitude, largest=RANDAUGMENT_LARGEST, official=official)
        for name in OPS
    ]
    for draws in tf.unstack(tf.random.stateless_uniform((num_layers, 4), seed)):
        image = _choose(tf.cast(len(OPS) * draws[0], tf.int32), branches, image, draws[1:])
    return image


def _apply(image: tf.Tensor, draws: tf.Tensor, *, name: str, level: float, **options: Any) -> tf.Tensor:
    return apply_op(image, name, level, draws, **options)


def _leave(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    return image


def _choose(number: tf.Tensor, branches: Sequence[Callable], image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns the result of branch `number` for the image and the draws.

    `tf.switch_case` visits every node of every branch in a pipeline, which took longer than the operations with the 50
    branches of AutoAugment. StatelessCase runs only the chosen branch.
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
) -> Augmentation | None:
    """Returns the augmentation `name` as a function, or None if there is nothing to do.

    The function maps (image, seed) to an image: float32 [height, width, 3] from 0 to 255, and a seed int32 [2].

    Args:
        name: "affine", "autoaugment", "randaugment" or None.
        num_layers: number of operations of RandAugment.
        magnitude: level of the operations of RandAugment.
        official: whether to use the operations of the published checkpoints instead of Pillow's.
        erasing: chance in [0, 1] of random erasing, which follows the named augmentation.

    Example:
        >>> augment = make_augmentation("randaugment", magnitude=5)
        >>> augment(tf.zeros((32, 32, 3)), tf.constant([0, 1])).shape
        TensorShape([32, 32, 3])
    """
    policies = {
        "autoaugment": functools.partial(autoaugment, official=official),
        "randaugment": functools.partial(randaugment, num_layers=num_layers, magnitude=magnitude, official=official),
    }
    augment = random_affine if name == "affine" else _on_floats(policies[name]) if name else None
    return _with_erasing(augment, erasing) if erasing else augment


def _on_floats(policy: Augmentation) -> Augmentation:
    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        levels = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
        return tf.ensure_shape(tf.cast(policy(levels, seed), tf.float32), image.shape)

    return augment


def _with_erasing(augment: Augmentation | None, chance: float) -> Augmentation:
    def augment_and_erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        changed = augment(image, seed) if augment else image
        return random_erasing(changed, tf.random.fold_in(seed, 1), chance)

    return augment_and_erase
