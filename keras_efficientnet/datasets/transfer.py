"""The eight data sets to which the paper transfers: what they are made of, checked against what is there.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946, table 6. It gives Oxford-IIIT Pets 3,369 test images; there are 3,669.
"""

from collections.abc import Sequence
from typing import NamedTuple


class TransferSet(NamedTuple):
    """One of them."""

    title: str
    train_images: int
    test_images: int
    classes: int
    splits: tuple[str, str] | None  # in TensorFlow Datasets; None: it is not there, and comes in a folder


# fmt: off
TRANSFER = {
    #                                 title               train   test    classes  splits
    "cifar10":           TransferSet("CIFAR-10",          50_000, 10_000, 10,      ("train", "test")),
    "cifar100":          TransferSet("CIFAR-100",         50_000, 10_000, 100,     ("train", "test")),
    "birdsnap":          TransferSet("Birdsnap",          47_386, 2_443,  500,     None),
    "cars196":           TransferSet("Stanford Cars",     8_144,  8_041,  196,     ("train", "test")),
    "oxford_flowers102": TransferSet("Flowers",           2_040,  6_149,  102,     ("train+validation", "test")),
    "fgvc_aircraft":     TransferSet("FGVC Aircraft",     6_667,  3_333,  100,     None),
    "oxford_iiit_pet":   TransferSet("Oxford-IIIT Pets",  3_680,  3_669,  37,      ("train", "test")),
    "food101":           TransferSet("Food-101",          75_750, 25_250, 101,     ("train", "validation")),
}
# fmt: on


def check_transfer(name: str, classes: int, images: Sequence[int]) -> None:
    """Compares a data set with the paper's.

    Args:
        name: as in TRANSFER; another is not checked.
        classes: that there are.
        images: to train on and to test on; 0 where they are not read.

    Raises:
        ValueError: other classes, or another number of images.
    """
    if name not in TRANSFER:
        return
    row = TRANSFER[name]
    expected, found = (row.classes, row.train_images, row.test_images), (classes, *images)
    if any(have and have != want for have, want in zip(found, expected, strict=True)):
        raise ValueError(
            f"{row.title} has {row.classes} classes, {row.train_images:,} images to train and {row.test_images:,} to "
            f"test on. Received: {classes}, {images[0]:,} and {images[1]:,}. For a part of it say `dataset=folder` or "
            "`dataset=records`."
        )
