"""Predicts the likeliest classes of image files."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_efficientnet.decoding import explain
from keras_efficientnet.paths import IMAGE_SUFFIXES, missing_images, split_paths


class Prediction(NamedTuple):
    """Predicted classes of a file, or why it could not be read."""

    file: str
    top: tuple[tuple[str, float], ...] = ()  # (class name, probability), the likeliest first
    fault: str | None = None


def find_images(paths: str) -> list[str]:
    """Returns the files that a list of files, folders and patterns names, without duplicates.

    Args:
        paths: separated by commas; one that exists is taken literally. A folder stands for its image files, sorted;
            `**` in a pattern matches any folders.

    Raises:
        FileNotFoundError: a file does not exist, or a folder or pattern has no image files.
    """
    files = []
    for path in split_paths(paths):
        found = _find(path)
        if not found:
            raise missing_images(path)
        files += found
    return list(dict.fromkeys(files))


def _find(path: str) -> list[str]:
    if os.path.isdir(path):
        return sorted(str(file) for file in Path(path).iterdir() if _is_image(file))
    if os.path.isfile(path):
        return [path]
    folder = next((parent for parent in Path(path).parents if parent.is_dir()), Path())  # is taken literally, too
    pattern = os.path.join(glob.escape(str(folder)), os.path.relpath(path, folder)) if folder != Path() else path
    return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def predict_files(
    files: Sequence[str],
    read: Callable[[bytes], tf.Tensor],
    classify: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    *,
    top: int = 5,
    batch: int = 64,
) -> Iterator[Prediction]:
    """Yields the prediction of each file, in the order of the files.

    Args:
        files: paths.
        read: encoded image -> pixels, float32 [height, width, channels].
        classify: pixels [n, height, width, channels] -> probabilities [n, classes].
        class_names: one per class.
        top: number of classes to name.
        batch: maximum number of images per call of `classify`.
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


def _likeliest(probabilities: np.ndarray, class_names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple((class_names[index], float(probabilities[index])) for index in order)


def _read(file: str, read: Callable[[bytes], tf.Tensor]) -> tf.Tensor | str:
    """Returns the pixels of a file, or why it could not be read."""
    try:
        data = Path(file).read_bytes()
        return read(data)
    except tf.errors.OpError:  # TensorFlow's message is about its operations
        return explain(data) or "cannot be decoded as BMP, GIF, JPEG, PNG or WebP"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
