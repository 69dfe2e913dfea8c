"""Downloads files: resumes after an interruption, and deletes a file whose hash is not the published one."""

import base64
import contextlib
import hashlib
import http
import http.client
import pathlib
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator

import tqdm

CHUNK = 2**20  # bytes


def download(url: str, folder: pathlib.Path, *, sha512: str | None = None) -> pathlib.Path:
    """Returns the file of a URL, downloaded if the folder does not have it.

    Args:
        url: its name ends in a dash and the first digits of its SHA-256: "efficientnet_b1-c27df63c.pth".
        folder: cache folder; an incomplete download is kept there as `.partial`.
        sha512: SHA-512 in base64, as npm writes it, of a file whose name does not contain its hash.

    Raises:
        ConnectionError: the download failed; the next call resumes it.
        ValueError: the hash differs; the file is deleted.
    """
    path = folder / url.rpartition("/")[2]
    digits = sha512 or _digits(url)
    if is_complete(path, digits):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            _fetch(url, partial)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"Tried {url}: {describe(error)}.") from None
    if not is_complete(partial, digits):
        partial.unlink()
        expected = "SHA-512 than the published one" if sha512 else "SHA-256 than its name says"
        raise ValueError(f"The file from {url} has another {expected}, and was deleted. Try again.")
    return partial.replace(path)


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


@contextlib.contextmanager
def _partial(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a file of this process alone, which continues the `.partial` of an earlier process if there is one."""
    shared, own = (path.with_name(f"{path.name}{middle}.partial") for middle in ("", f".{uuid.uuid4().hex}"))
    with contextlib.suppress(FileNotFoundError):
        shared.rename(own)
    try:
        yield own
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            own.replace(shared)
        raise


def _fetch(url: str, partial: pathlib.Path) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        partial.unlink()  # the partial file is not the beginning of this file
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
