"""The eight datasets of the paper's transfer experiments, to check that a loaded dataset is the same.

Source: Tan & Le 2019, arxiv.org/abs/1905.11946, table 6. It states 3,369 test images for Oxford-IIIT Pets; there are
3,669.
"""

from collections.abc import Sequence
from typing import NamedTuple


class TransferSet(NamedTuple):
    title: str
    train_images: int
    test_images: int
    classes: int
    splits: tuple[str, str] | None  # in TensorFlow Datasets; None: not available there, read from a folder


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
    """Raises an error if a dataset of the paper has other classes or another number of images.

    Args:
        name: of the dataset; names outside TRANSFER are not checked.
        classes: number of classes found.
        images: number of training and test images found; 0 if a split was not read.

    Raises:
        ValueError: the numbers do not match the paper.
    """
    if name not in TRANSFER:
        return
    row = TRANSFER[name]
    expected, found = (row.classes, row.train_images, row.test_images), (classes, *images)
    if any(have and have != want for have, want in zip(found, expected, strict=True)):
        raise ValueError(
            f"{row.title} has {row.classes} classes, {row.train_images:,} training images and {row.test_images:,} test "
            f"images. Received: {classes}, {images[0]:,} and {images[1]:,}. To use a part of it, set `dataset=folder` "
            "or `dataset=records`."
        )
