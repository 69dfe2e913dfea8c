"""Paths as users write them, and as TensorFlow reads them."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

IMAGE_FORMATS = "JPEG, PNG, GIF, BMP or WebP"  # that can be decoded
# of files that can be decoded; case is ignored
IMAGE_SUFFIXES = (".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
LONGEST_PATH = 4096  # characters, on Linux
TENSORFLOW_WILDCARDS = frozenset("*?[") if os.sep == "\\" else frozenset("*?[\\")


@contextlib.contextmanager
def without_wildcards(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields a path for TensorFlow's readers, which take `*`, `?`, `[` and a backslash for wildcards.

    Such a path gets a temporary name: a symbolic link.

    Args:
        path: a file, a folder, or what the names of several files begin with before a dot, as those of a checkpoint.

    Raises:
        OSError: the path has wildcards, and this system has no symbolic links to give it another name.

    Example:
        >>> with without_wildcards("runs/b0/checkpoints/ckpt-6") as plain:
        ...     plain
        'runs/b0/checkpoints/ckpt-6'
    """
    if "://" in os.fspath(path):
        yield os.fspath(path)
        return
    path = Path(path)
    if not TENSORFLOW_WILDCARDS & set(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "link")
        try:
            if TENSORFLOW_WILDCARDS & set(folder):
                raise OSError("the folder for temporary files has such a character as well")
            for name in os.listdir(path.parent) if path.parent.is_dir() else ():
                if name == path.name or name.startswith(f"{path.name}."):
                    plain.with_name(f"link{name[len(path.name) :]}").symlink_to(Path(path.parent, name).absolute())
        except OSError as error:
            raise OSError(
                f"TensorFlow cannot read {path}: it takes the characters {' '.join(sorted(TENSORFLOW_WILDCARDS))} for "
                f"wildcards. Rename the folder or file: a link to it cannot be made here, {error}."
            ) from error
        yield str(plain)


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Adds the name of a file to an OSError about writing it: a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def split_paths(paths: str) -> list[str]:
    """Returns the paths in a list that is separated by commas, with `~` expanded.

    A path that exists is taken literally, also if it has commas or spaces at its ends. So is the folder of a pattern.

    Example:
        >>> split_paths("photos, more/*.jpg")
        ['photos', 'more/*.jpg']
    """
    parts, found = paths.split(","), []
    while parts:
        joined = itertools.accumulate(parts, lambda start, part: f"{start},{part}")
        candidates = itertools.takewhile(lambda text: len(text) <= LONGEST_PATH, joined)
        existing = [(text.count(",") + 1, path) for text in candidates if (path := _find_literal(text))]
        count, path = existing[-1] if existing else (1, os.path.expanduser(parts[0].strip()))
        found += [path] if path else []
        parts = parts[count:]
    return found


def _find_literal(text):
    """Returns the path if it exists, or if it is a pattern whose last comma is in the name of a folder that exists."""
    for path in (os.path.expanduser(text), os.path.expanduser(text.strip())):
        end = path.find(os.sep, path.rfind(",")) if "," in path else -1
        if os.path.exists(path) or (end > 0 and os.path.isdir(path[:end])):
            return path
    return None


def missing_records(folder: str, split: str, *, is_folder: bool) -> FileNotFoundError:
    """Returns the error of a search for TFRecords that found none; `is_folder` says whether the folder exists."""
    absent = "" if is_folder else " There is no such folder."
    return FileNotFoundError(
        f"No files {split}-* in {folder!r}.{absent} `data_dir` must be a folder of TFRecords named "
        "train-00000-of-01024, ..., validation-00000-of-00128, ... (any number of them). For a folder of class "
        "folders, set `dataset=folder`."
    )


def missing_class_folders(folder: str) -> FileNotFoundError:
    """Returns the error of a search for class folders in a folder that does not exist."""
    return FileNotFoundError(f"There is no folder {folder!r}. `data_dir` must be a folder with class folders.")


def missing_images(path: str) -> FileNotFoundError:
    """Returns the error of a search for image files that found none at a path."""
    return FileNotFoundError(
        f"No image files at {path!r}. `images` must be image files, folders of them ({', '.join(IMAGE_SUFFIXES)}) or "
        "patterns like dir/*.jpg, separated by commas."
    )


def missing_weights(path: str | os.PathLike[str]) -> FileNotFoundError:
    """Returns the error of a search for weights that found none at a path."""
    return FileNotFoundError(
        "`weights` must be None, the name of published weights, or the path of a TensorFlow checkpoint, a run folder, "
        f"a keras-hub preset or a .weights.h5, .h5, .keras, .safetensors or .pth file. There is no file {str(path)!r}."
    )
