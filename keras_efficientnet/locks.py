"""Locks that end with their process, whatever ends it."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from keras_efficientnet.paths import naming_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock(file: IO[Any], *, wait: bool) -> None:
    """Locks an open file until it is closed or this process ends.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        OSError: the system or the file system has no such locks.
    """
    if fcntl is None:
        raise OSError("the system has no flock")
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


class LockedError(RuntimeError):
    """Another process holds a lock."""


@contextlib.contextmanager
def locking(path: Path) -> Iterator[None]:
    """Holds a file as a lock, which the operating system releases when the process ends, also by a crash.

    The file says who holds the lock, and is removed at the end. On Windows and on file systems without `flock`, other
    processes are not kept out: a warning says so.

    Raises:
        LockedError: another process holds the lock; the message says which, and since when.
        OSError: the file cannot be written.
    """
    with contextlib.closing(_open_locked(path)) as file:
        try:
            holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
            file.truncate(0)
            with naming_file(path):
                os.write(file.fileno(), holder.encode())  # unbuffered: closing the file must not fail on a full disk
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows does not remove an open file
                path.unlink()


def _open_locked(path):
    """Returns the open file of a lock that this process now holds."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock_for_us(file)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()  # the process that held the lock removed the file after it was opened here
        except FileNotFoundError:  # as above
            file.close()
        except BaseException:
            file.close()
            raise


def _lock_for_us(file):
    try:
        lock(file, wait=False)
    except BlockingIOError:
        file.seek(0)
        raise LockedError(file.read() or "another process") from None
    except OSError as error:
        logging.warning(f"{file.name} cannot be locked: {error}. Do not start a second process that writes there.")
