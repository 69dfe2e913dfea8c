"""Makes the embedded sample: `python tests/make_sample.py FOLDER` writes the files of keras_efficientnet/data/sample.

The 1,797 handwritten digits of scikit-learn (Alpaydin & Kaynak 1998, UCI Machine Learning Repository,
doi.org/10.24432/C50P49, CC BY 4.0), 8 x 8 pixels, as PNGs in TFRecords of the official ImageNet layout. Every fifth
digit of a class is held out. The same bytes on every machine: the PNGs are stored, not compressed.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_efficientnet.datasets.writing import serialize

FILES = {"train": 4, "validation": 1}
HELD_OUT = 5  # one digit in so many, class by class


def png(pixels: np.ndarray) -> bytes:
    """A grayscale PNG of uint8 [height, width]."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, level=0)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def example(pixels: np.ndarray, digit: int, filename: str) -> bytes:
    """One record, with the keys of the official ImageNet records; labels count from 1."""
    features = {
        "image/class/label": digit + 1,
        "image/height": pixels.shape[0],
        "image/width": pixels.shape[1],
        "image/channels": 1,
        "image/colorspace": "Grayscale",
        "image/format": "PNG",
        "image/class/synset": str(digit),
        "image/filename": filename,
        "image/encoded": png(pixels),
    }
    return serialize(features)


def split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The indices of each part, in order."""
    place = np.array([np.sum(labels[:index] == label) for index, label in enumerate(labels)])
    held_out = place % HELD_OUT == HELD_OUT - 1
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}


def main(folder: Path) -> None:
    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype("uint8")
    for part, indices in split(digits.target).items():
        for number in range(FILES[part]):
            path = folder / f"{part}-{number:05d}-of-{FILES[part]:05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in indices[number :: FILES[part]]:
                    writer.write(example(pixels[index], int(digits.target[index]), f"digit_{index:04d}.png"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
