"""Writes the files of keras_efficientnet/data/sample: `python tests/make_sample.py FOLDER`.

The 1,797 handwritten digits of scikit-learn (Alpaydin & Kaynak 1998, UCI Machine Learning Repository,
doi.org/10.24432/C50P49, CC BY 4.0), 8 x 8 pixels, are written as PNGs in class folders, and by the package as records.
Every fifth digit of a class is held out. The PNGs are not compressed, so that every machine writes the same bytes.
"""

import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from keras_efficientnet.datasets.shards import OPTIONS, write_records

HELD_OUT = 5  # every fifth digit of a class


def png(pixels: np.ndarray) -> bytes:
    """Returns a grayscale PNG of uint8 [height, width]."""
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


def split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the indices of each split, in order."""
    number_in_class = np.array([np.sum(labels[:index] == label) for index, label in enumerate(labels)])
    held_out = number_in_class % HELD_OUT == HELD_OUT - 1
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}


def main(folder: Path) -> None:
    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype("uint8")
    with tempfile.TemporaryDirectory() as images:
        for name, indices in split(digits.target).items():
            for index in indices:
                path = Path(images, name, str(digits.target[index]), f"digit_{index:04d}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(pixels[index]))
        write_records(images, str(folder), train_files=4, validation_files=1, processes=1, keep_png=True)
    (folder / OPTIONS).unlink()  # it has a hash of the temporary folder's name


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
