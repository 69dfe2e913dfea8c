"""Complete-or-nothing writing: a file or folder is written beside its place and moved there when it is complete."""

import contextlib
import ctypes
import errno
import io
import itertools
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from keras_efficientnet.locks import lock
from keras_efficientnet.paths import naming_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNFINISHED = ".unfinished"  # last part of the names of temporary folders: .NAME.RANDOM.unfinished
LEFTOVER = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}{re.escape(UNFINISHED)}")
LOCK = ".lock"  # file in a temporary folder, locked by the process that writes there for as long as it lives
SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a full quota, a limit on the size of files
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class RejectedFileError(RuntimeError):
    """A file is not as good as required. Raised inside `replacing`, it keeps the file under `.rejected`."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a scheduler or a machine that shuts down. See `stop_on_signals`."""


def check_target(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises FileExistsError if `path` must not be overwritten.

    Before that, puts back a folder that a killed process had moved away and not replaced, and
    removes the temporary files of such processes. What a living process writes stays; where there are no locks, so do
    all temporary files.

    Args:
        path: a file or folder that may exist.
        overwrite: whether the user allows to replace it.
        is_ours: returns whether an existing file or folder is of the kind that replaces it.
    """
    target = Path(path).resolve()
    _remove_leftovers(target.parent)
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
        OSError: the disk is full, whichever library said so in the block.

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
    folder, held = _make_folder(target)
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
    except Exception as error:
        if reason := _find_shortage(error):
            raise OSError(
                f"{path} could not be written: {reason}. Free some space, or choose another place."
            ) from error
        raise
    finally:
        held.close()
        if target.exists() or not old.exists():  # else the temporary folder has the only copy
            shutil.rmtree(folder, ignore_errors=True)


def stop_on_signals() -> None:
    """Lets SIGTERM raise `Terminated` and SIGHUP KeyboardInterrupt, as Ctrl-C does: temporary files are removed.

    For scripts: a library leaves signals alone. An ignored signal stays ignored, as `nohup` needs it. A signal that
    comes while Python runs a callback, of its garbage collector for example, is lost there: it is sent again.
    """
    sys.unraisablehook = _send_again
    for name, handler in (("SIGTERM", _terminate), ("SIGHUP", signal.default_int_handler)):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handler)


def _terminate(number, frame):
    raise Terminated


def _send_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Repeats the signal whose exception Python has ignored; shows other ignored exceptions."""
    numbers: dict[type[BaseException], int] = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    number = numbers.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
    else:
        threading.Timer(0.05, signal.raise_signal, (number,)).start()  # once the callback has ended


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
    """Writes a figure of matplotlib as a PNG, complete or not at all. Its texts are no formulas, whatever they hold.

    Letters that the font lacks are boxes in the picture, which one warning says.
    """
    _show_dollars(figure)
    stream = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(stream, format="png", dpi=120)
    others = [each for each in caught if not re.match(r"Glyph \d+ .* missing from ", str(each.message))]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if len(others) < len(caught):
        logging.getLogger(__name__).warning(f"{path.name} has boxes in place of letters that Matplotlib's font lacks.")
    write_bytes(path, stream.getvalue())


def count_bytes(path: str | os.PathLike[str]) -> int:
    """Returns the size of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _show_dollars(figure: "Figure") -> None:
    """Keeps matplotlib from taking text between dollar signs for a formula, except on logarithmic axes."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    powers = [axis for axis in axes if isinstance(axis.get_major_formatter(), LogFormatter)]
    formulas = {label for axis in powers for label in axis.get_ticklabels(which="both")}
    for text in set(figure.findobj(Text)) - formulas:
        text.set_parse_math(False)


def _remove_leftovers(folder):
    """Removes the temporary folders of killed processes; puts back what they had moved away and not replaced."""
    names = {path: LEFTOVER.fullmatch(path.name) for path in folder.glob(f".*{UNFINISHED}")}
    for left, name in names.items():
        if name:
            with contextlib.suppress(OSError), open(left / LOCK, "a") as held:  # OSError: of another user
                _remove_leftover(left, folder / name[1], held)


def _remove_leftover(left, target, held):
    """Puts back an old folder, and removes the temporary folder if a lock shows that its process has ended."""
    try:
        lock(held, wait=False)
    except BlockingIOError:
        return
    except OSError:  # no locks: the process may live, so what it writes stays
        _put_back(left, target)
    else:
        _put_back(left, target)
        shutil.rmtree(left, ignore_errors=True)


def _put_back(left, target):
    old = left / f"{target.name}.old"
    if old.exists() and not target.exists():
        os.replace(old, target)


def _find_shortage(error) -> str | None:
    """Returns what is used up if an error of any library says so, in the words of the system."""
    reasons = {number: os.strerror(number) for number in SHORTAGES}
    code = error.errno if isinstance(error, OSError) else None
    return (
        reasons[code]
        if code in reasons
        else next((reason for reason in reasons.values() if reason in str(error)), None)
    )


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


def _make_folder(target) -> tuple[Path, IO[str]]:
    """Returns a new temporary folder beside a path, and its locked `LOCK`."""
    while True:
        folder = Path(tempfile.mkdtemp(UNFINISHED, f".{target.name}.", target.parent))  # can be renamed to the target
        try:
            held = open(folder / LOCK, "a")
            with contextlib.suppress(OSError):  # a file system without locks: then nobody removes the folder
                lock(held, wait=True)
        except FileNotFoundError:  # another process took the folder for a leftover
            continue
        except BaseException:  # for example a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if folder.exists():
            return folder, held
        held.close()


def _swap(new, target, old):
    """Moves a file or folder to its place; an old folder there is exchanged for it, or else moved away before."""
    if target.is_dir() and _exchange(new, target):
        return
    try:
        if target.is_dir():  # a folder cannot replace another folder in one step
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


def _exchange(one, other) -> bool:
    """Exchanges two folders in one step; returns False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # Python has no function for it
    paths = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*paths, RENAME_EXCHANGE) == 0
