"""Class names: read from text files and checked, so that every export can write them."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, broken ones, ends of lines

MARK = "\ufeff"  # of the byte order, at the start of a text file


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    r"""Returns the class names in a UTF-8 text file, local or gs://, with one name per line.

    A byte-order mark, the line ends of any system and blank lines at the end do not matter.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 text, it is empty, or a line is not a class name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.txt"
        >>> _ = path.write_bytes(b"cat\r\ndog\r\n\r\n")
        >>> read_labels(path)
        ['cat', 'dog']
    """
    try:
        text = _read(os.fspath(path)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8 text with one class name per line: {error}. Save it as UTF-8."
        ) from error
    names = re.split("\r\n|\r|\n", text)
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise ValueError(f"{path} is empty. It must have one class name per line. Fill it, or delete it.")
    check_names(names, f"{path}, line")
    return names


def check_names(names: Sequence[str], origin: str) -> None:
    """Raises ValueError unless each class name is one line of printable text; tabs are allowed.

    A name cannot start with a byte-order mark: it would be lost when the name is read from a file.

    Args:
        names: class names in order.
        origin: where they are from, for the message; the number of the name follows, counted from 1.
    """
    for number, name in enumerate(names, start=1):
        if name.startswith(MARK):
            raise ValueError(
                f"{origin} {number}: a class name must not start with a byte-order mark, U+FEFF, which cannot be seen. "
                f"Received: {name!r}. Rename the class."
            )
        if not name.strip() or any(unicodedata.category(letter) in UNPRINTABLE for letter in name.replace("\t", " ")):
            raise ValueError(
                f"{origin} {number}: a class name must be one line of text, not blank and without control characters. "
                f"Received: {name!r}. Rename the class."
            )


def _read(path: str) -> bytes:
    if "://" in path:
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path!r} with the names of the classes.")
    return Path(path).read_bytes()
