"""Image files and a classifier -> for each file the likeliest classes."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_efficientnet.preprocessing import PICTURE_ENDINGS


class Prediction(NamedTuple):
    """What a classifier makes of a file, or why it could not be read."""

    file: str
    top: tuple[tuple[str, float], ...] = ()  # (name of the class, probability), the likeliest first
    fault: str | None = None


def find_images(places: str) -> list[str]:
    """The files of a list of files, folders and patterns, separated by commas, each file once.

    Of a folder its pictures, sorted, by their endings; `**` in a pattern stands for any folders.

    Raises:
        FileNotFoundError: a file is not there, or a folder or pattern has no image.
    """
    files = []
    for place in filter(None, map(str.strip, places.split(","))):
        found = _find(place)
        if not found:
            raise FileNotFoundError(
                f"No image files at {place!r}. `images` must be image files, folders of them "
                f"({', '.join(PICTURE_ENDINGS)}) or patterns as dir/*.jpg, separated by commas."
            )
        files += found
    return list(dict.fromkeys(files))


def _find(place):
    if os.path.isdir(place):
        return sorted(str(path) for path in Path(place).iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
    return [place] if os.path.isfile(place) else sorted(filter(os.path.isfile, glob.glob(place, recursive=True)))


def predict_files(
    files: Sequence[str],
    read: Callable[[bytes], tf.Tensor],
    classify: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    *,
    top: int = 5,
    batch: int = 64,
) -> Iterator[Prediction]:
    """Names the likeliest classes of each file, in the order of the files.

    Args:
        files: paths.
        read: bytes of a picture -> pixels, float32 [height, width, channels].
        classify: pixels [n, height, width, channels] -> probabilities [n, classes].
        class_names: one for each class.
        top: classes to name.
        batch: images a call of `classify`, at most.
    """
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        images = [_read(file, read) for file in part]
        pixels = [image for image in images if not isinstance(image, str)]
        rows = iter(np.asarray(classify(np.stack(pixels))) if pixels else ())
        for file, image in zip(part, images, strict=True):
            if isinstance(image, str):
                yield Prediction(file, fault=image)
            else:
                yield Prediction(file, _likeliest(next(rows), class_names, top))


def _likeliest(probabilities, class_names, top):
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple((class_names[index], float(probabilities[index])) for index in order)


def _read(file, read):
    """The pixels of a file, or what is wrong with it."""
    try:
        return read(Path(file).read_bytes())
    except tf.errors.OpError:  # TensorFlow's words are of its operations
        return "is no whole BMP, GIF, JPEG, PNG or WebP picture"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
