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


LONGEST_PATH = 4096  # characters, on Linux
TENSORFLOW_WILDCARDS = frozenset("*?[") if os.sep == "\\" else frozenset("*?[\\")


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


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, complete or not at all."""
    temporary = path.with_name(f".{path.name}")
    try:
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
