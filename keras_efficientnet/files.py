"""Writing a product whole or not at all: beside its place, and into it by one renaming."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables", "assets", "assets.extra"}
SOURCES = (b"PK\x03\x04", b"\x89HDF")


def check_target(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises a FileExistsError if there is something at `path`, and not `overwrite`, or it is not `is_ours`."""
    target = Path(path).resolve()
    if target.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or overwrite it: overwrite=True, --overwrite.")
    if target.exists() and not is_ours(target):
        raise FileExistsError(f"{path} is something else than what it would be overwritten with. Choose another path.")


class Rejected(RuntimeError):
    """What was written is whole, but not as good as it must be: raised within `replacing`, it is kept aside."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` when all went well and vanishes otherwise.

    Raises:
        FileExistsError: as `check_target`.
        Rejected: the same from within; what was written then stands at `path` with `.rejected` behind it.
    """
    check_target(path, overwrite, is_ours)
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # same file system: can be renamed
    new, old = folder / target.name, folder / f"{target.name}.old"
    try:
        yield new
        _flush(new)
        _swap(new, target, old)
    except Rejected as error:
        aside = _find_aside(target, is_ours)
        _remove(aside)
        os.replace(new, aside)
        raise Rejected(f"{error} It is kept aside: {aside}") from None
    finally:
        if target.exists() or not old.exists():  # and not the only copy of what was there
            shutil.rmtree(folder, ignore_errors=True)


def count_bytes(path: str | os.PathLike[str]) -> int:
    """The size of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def is_saved_model(path: Path) -> bool:
    """Whether there is an empty folder, or one of a SavedModel and nothing else."""
    return path.is_dir() and {file.name for file in path.iterdir()} <= SAVED_MODEL


def is_single_model(path: Path) -> bool:
    """Whether there is a file, and not one that a model is exported from: a zip archive, as `.keras` is, or HDF5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not file.read(8).startswith(SOURCES)


def _find_aside(target, is_ours) -> Path:
    """Where a rejected product goes: nothing stands there, or one that was rejected before."""
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
        if target.is_dir():  # a folder does not replace another in one step
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def save_figure(figure, path: Path) -> None:
    """Writes a figure of matplotlib as a PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=120)
    os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
