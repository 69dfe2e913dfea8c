"""Compares operations with the official code and Pillow on the same images: golden/augmentation_*.npz."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN

from keras_efficientnet.augmentation.operations import OPS, apply_op
from keras_efficientnet.augmentation.policies import AUTOAUGMENT_LARGEST, POLICY_V0, RANDAUGMENT_LARGEST

OFFICIAL, PIL = (np.load(GOLDEN / f"augmentation_{name}.npz") for name in ("official", "pil"))
POLICIES = np.load(GOLDEN / "augmentation_policies.npz")
# pairs of RandAugment in golden/augmentation_policies.npz, as indices into the official list of operations
PAIRS = ((0, 3), (1, 6), (4, 5), (7, 8), (9, 10), (11, 12), (13, 15), (14, 2), (15, 1), (12, 14))


def apply(name, image, level, *, official, sign=1.0, center=None, largest=RANDAUGMENT_LARGEST):
    """Applies an operation with a given sign and centre."""
    op = OPS[name]
    function = op.official if official and op.official else op.function
    if op.argument is None:
        return function(image)
    argument = op.argument(level, largest[name]) if name in largest else op.argument(level)
    if name == "Cutout":
        return function(image, argument, tf.constant(center))
    return function(image, sign * argument if op.signed else argument)


def cases(name, official):
    """Yields (name of the input, our image, expected image) for every recorded level, and sign or centre."""
    moves = OPS[name].signed or name == "Cutout"
    for source_name in ("tiles",) if moves else ("tiles", "flat"):
        key = f"{'official' if official else 'pil'}/{source_name}/{name}{'_ra' if name in RANDAUGMENT_LARGEST else ''}"
        source = OFFICIAL if official or key not in PIL else PIL
        expected = source[key if key in source else key.replace("pil/", "official/")]
        image = tf.constant(OFFICIAL[f"input/{source_name}"])
        height, width = image.shape[:2]
        centers = [(height // 2, width // 2), (7, width - 10)]
        if OPS[name].argument is None:
            yield (
                source_name,
                OPS[name].official(image) if official and OPS[name].official else OPS[name].function(image),
                expected,
            )
            continue
        for level, row in zip(OFFICIAL["levels"].tolist(), expected, strict=True):
            if name == "Cutout":
                outputs = [apply(name, image, level, official=official, center=center) for center in centers]
            elif OPS[name].signed:
                outputs = [apply(name, image, level, official=official, sign=sign) for sign in (1.0, -1.0)]
            else:
                outputs, row = [apply(name, image, level, official=official)], [row]
            yield from ((source_name, output, one) for output, one in zip(outputs, row, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_each_operation_equals_pillows(name):
    for source_name, image, expected in cases(name, official=False):
        np.testing.assert_array_equal(image, expected, err_msg=f"{name} {source_name}")


@pytest.mark.parametrize("name", OPS)
def test_each_official_operation_equals_the_official_code(name):
    for source_name, image, expected in cases(name, official=True):
        off = np.abs(image.numpy().astype(int) - expected)
        if name == "Sharpness":
            # in single precision, versions of TensorFlow differ in 2.3 % of the pixels of the official code
            assert off.max() <= 5 and ((off.max(axis=-1) > 0).mean() < 0.04 or source_name == "flat")
        else:
            assert not off.any(), f"{name} {source_name}"


def assert_pair(names, levels, largest, expected):
    image = tf.constant(POLICIES["input/tiles"])
    center = (image.shape[0] // 2, image.shape[1] // 2)
    for name, level in zip(names, levels, strict=True):
        image = apply(name, image, level, official=True, center=center, largest=largest)
    different = (image.numpy() != expected).any(axis=-1).mean()
    # Sharpness and Rotate depend on single precision: see above; one pixel of 560 is half-way between two
    assert different <= (0.04 if "Sharpness" in names else 1 / 560 if "Rotate" in names else 0), names


def test_the_25_pairs_of_autoaugment_equal_the_official_ones():
    for pair, expected in zip(POLICY_V0, POLICIES["policy_v0"], strict=True):
        # the golden file leaves out operations with a chance of 0
        operations = [(name, level) for name, chance, level in pair if chance > 0]
        names, levels = zip(*operations, strict=True)
        assert_pair(names, levels, AUTOAUGMENT_LARGEST, expected)


def test_the_chances_of_autoaugment_equal_the_official_ones():
    # by hand from autoaugment.py, policy_v0: sums over first and second operations, and three rows
    assert sum(first[1] for first, _ in POLICY_V0) == pytest.approx(14.4)
    assert sum(second[1] for _, second in POLICY_V0) == pytest.approx(15.4)
    assert POLICY_V0[9] == (("Invert", 0.4, 9), ("Rotate", 0.6, 0))
    assert POLICY_V0[16] == (("ShearX", 0.0, 0), ("Solarize", 0.8, 4))
    assert POLICY_V0[22] == (("Posterize", 0.8, 2), ("Solarize", 0.6, 10))


def test_operations_of_randaugment_equal_the_official_ones_in_their_order():
    names = list(OPS)
    for pair, expected in zip(PAIRS, POLICIES["randaug_15"], strict=True):
        assert_pair([names[index] for index in pair], (15, 15), RANDAUGMENT_LARGEST, expected)


def test_only_the_draws_decide_sign_and_centre():
    image = tf.constant(OFFICIAL["input/tiles"])
    height, width = image.shape[:2]
    for draw, sign in ((0.0, -1.0), (0.49, -1.0), (0.5, 1.0), (0.99, 1.0)):
        turned = apply_op(image, "Rotate", 5, tf.constant([draw, 0.0, 0.0]))
        np.testing.assert_array_equal(turned, apply("Rotate", image, 5, official=False, sign=sign))
        np.testing.assert_array_equal(tf.function(apply_op)(image, "Rotate", 5, tf.constant([draw, 0.0, 0.0])), turned)
    for row, column in ((0.0, 0.999), (0.3, 0.7)):
        hole = apply_op(image, "Cutout", 2, tf.constant([0.0, row, column]), largest=RANDAUGMENT_LARGEST)
        center = (int(row * height), int(column * width))
        np.testing.assert_array_equal(hole, apply("Cutout", image, 2, official=False, center=center))
