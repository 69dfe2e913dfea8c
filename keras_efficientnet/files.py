"""Complete-or-nothing writing: a file or folder is written beside its place and moved there when it is complete."""

import contextlib
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RejectedFileError(RuntimeError):
    """A file is not as good as required. Raised inside `replacing`, it keeps the file under `.rejected`."""


def check_target(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises FileExistsError if `path` must not be overwritten.

    Args:
        path: a file or folder that may exist.
        overwrite: whether the user allows to replace it.
        is_ours: returns whether an existing file or folder is of the kind that replaces it.
    """
    target = Path(path).resolve()
    if target.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or overwrite it: overwrite=True, --overwrite.")
    if target.exists() and not is_ours(target):
        raise FileExistsError(
            f"{path} holds files that this export did not write, so it is not overwritten. Choose another path."
        )


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], overwrite: bool = True, is_ours: Callable[[Path], bool] = Path.is_file
) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds, and is removed otherwise.

    Args:
        path: where the file or folder will be. Missing parent folders are created.
        overwrite: whether to replace what exists at `path`.
        is_ours: returns whether an existing file or folder is of the kind that replaces it.

    Raises:
        FileExistsError: see `check_target`.
        RejectedFileError: the block raised it; the new file is kept at `path` with `.rejected` appended.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with replacing(path) as new:
        ...     _ = new.write_text("complete")
        >>> path.read_text()
        'complete'
    """
    check_target(path, overwrite, is_ours)
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # on the same file system: can rename
    new, old = folder / target.name, folder / f"{target.name}.old"
    try:
        yield new
        _flush(new)
        _swap(new, target, old)
    except RejectedFileError as error:
        aside = _find_aside(target, is_ours)
        _remove(aside)
        os.replace(new, aside)
        raise RejectedFileError(f"{error} It is kept aside: {aside}") from None
    finally:
        if target.exists() or not old.exists():  # else the temporary folder has the only copy
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Adds the name of a file to an OSError about writing it: a full disk has none."""
    try:
        yield
    except OSError as error:
        raise error if error.filename else OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, complete or not at all."""
    temporary = path.with_name(f".{path.name}")
    try:
        with naming_file(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, complete or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object, complete or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure of matplotlib as a PNG, complete or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_bytes(path, stream.getvalue())


def count_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the size of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _find_aside(target, is_ours) -> Path:
    """Returns the path for a rejected file: a free one, or one that holds an earlier rejected file."""
    names = (f"{target.name}.rejected{f'-{number}' if number else ''}" for number in itertools.count())
    return next(path for path in map(target.with_name, names) if not path.exists() or is_ours(path))


def _remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _flush(path):
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            with open(file, "rb+") as stream:
                os.fsync(stream)


def _swap(new, target, old):
    try:
        if target.is_dir():  # a folder cannot replace another folder in one step
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
