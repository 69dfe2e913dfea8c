"""Downloads files: resumes after an interruption or a kill, and deletes a file whose hash is not the published one."""

import base64
import contextlib
import hashlib
import http
import http.client
import os
import pathlib
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import tqdm

from keras_efficientnet.locks import lock

CHUNK = 2**20  # bytes
SCHEMES = ("http", "https")


def download(url: str, folder: pathlib.Path, *, sha512: str | None = None) -> pathlib.Path:
    """Returns the file of a URL, downloaded if the folder does not have it.

    Args:
        url: its name ends in a dash and the first digits of its SHA-256: "efficientnet_b1-c27df63c.pth".
        folder: cache folder; an incomplete download is kept there as `.partial`. A second process waits for the first.
        sha512: SHA-512 in base64, as npm writes it, of a file whose name does not contain its hash.

    Raises:
        ConnectionError: the download failed, or the server redirects to anything but http(s); the next call resumes it.
        FileExistsError: a folder or a link is in the place of the file.
        ValueError: the URL is not of http(s), or the hash differs; the file is deleted.
    """
    if urllib.parse.urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"The URL must begin with http:// or https://. Received: {url!r}")
    path = folder / url.rpartition("/")[2]
    partial = path.with_name(f"{path.name}.partial")
    digits = sha512 or _digits(url)
    if is_complete(path, digits):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_place(path)
        _check_place(partial)
        with _lock(partial):
            _sweep(path, partial)
            if not is_complete(path, digits):  # another process may have downloaded it
                _complete(url, partial, digits)
                partial.replace(path)
            return path
    except FileExistsError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"Tried {url}: {describe(error)}.") from None


def is_complete(path: pathlib.Path, digits: str) -> bool:
    """Returns whether a file exists and has a hash: the start of a SHA-256 in hexadecimal, or a SHA-512 in base64."""
    if not path.is_file():
        return False
    if digits.endswith("=="):
        return base64.b64encode(_digest(path, "sha512")).decode() == digits
    return sha256(path).startswith(digits)


def _digits(url: str) -> str:
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    if not digits:
        raise ValueError(f"The name of a file must end in the start of its SHA-256, as in b1-c27df63c.pth: {url}")
    return digits[1]


def _complete(url, partial, digits):
    """Downloads what the partial file lacks. Raises ValueError, and deletes it, if it has another hash then."""
    if is_complete(partial, digits):  # a process was killed before it moved the file
        return
    _fetch(url, partial)
    if not is_complete(partial, digits):
        partial.unlink()
        expected = "SHA-512 than the published one" if digits.endswith("==") else "SHA-256 than its name says"
        raise ValueError(f"The file from {url} has another {expected}, and was deleted. Try again.")


def _check_place(path: pathlib.Path) -> None:
    """Raises FileExistsError for anything but a file: a link could lead the download into any other file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "pipe or device"
        raise FileExistsError(f"{path} is a {kind}, in the place of the file to download. Move or remove it.")


@contextlib.contextmanager
def _lock(partial: pathlib.Path) -> Iterator[None]:
    """Waits until no other process downloads the partial file. The lock of a killed process ends with it."""
    if sys.platform == "win32":  # has no such locks, and moves no open file
        partial.touch()
        yield
        return
    while True:
        with partial.open("ab") as file:
            _wait(file, partial)
            own = os.fstat(file.fileno())
            if not _is_at(partial, own):  # the process that held the lock moved the file or deleted it
                continue
            try:
                yield
            finally:
                if _is_at(partial, own) and not os.fstat(file.fileno()).st_size:
                    partial.unlink()
            return


def _wait(file, partial):
    with contextlib.suppress(OSError):  # file systems without locks
        try:
            lock(file, wait=False)
        except BlockingIOError:
            tqdm.tqdm.write(f"Waiting for another process that downloads {partial}.", file=sys.stderr)
            lock(file, wait=True)


def _is_at(path, status):
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False


def _sweep(path: pathlib.Path, partial: pathlib.Path) -> None:
    """Continues the longest partial file that a killed process of an earlier version left, and deletes the others."""
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{32}\.partial")
    leftovers = [each for each in path.parent.iterdir() if name.fullmatch(each.name) and not each.is_symlink()]
    for leftover in sorted(leftovers, key=lambda each: each.stat().st_size, reverse=True):
        if leftover.stat().st_size > partial.stat().st_size:
            with leftover.open("rb") as source, partial.open("wb") as target:  # its lock needs the same file
                shutil.copyfileobj(source, target, CHUNK)
        leftover.unlink()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) alone: urllib also follows those to ftp."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urllib.parse.urlsplit(newurl).scheme not in SCHEMES:
            raise ConnectionError(f"the server redirects to {newurl}, which is not http(s)")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, partial: pathlib.Path) -> None:
    start = partial.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        os.truncate(partial, 0)  # the partial file is not the beginning of this file
        return _fetch(url, partial)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        total = None if response.length is None else start + response.length  # also None if the header is not a number
        bar = tqdm.tqdm(desc=url.rpartition("/")[2], initial=start, total=total, unit="B", unit_scale=True)
        with partial.open("ab" if start else "wb") as file, bar:
            while chunk := response.read(CHUNK):
                bar.update(file.write(chunk))
    size = partial.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection ended after {size:,} of {total:,} bytes")


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, 64 hexadecimal digits."""
    return _digest(path, "sha256").hex()


def _digest(path: pathlib.Path, kind: str) -> bytes:
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def describe(error: BaseException) -> str:
    """Returns the first cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
