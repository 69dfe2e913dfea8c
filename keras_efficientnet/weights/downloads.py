"""A URL -> a file that is whole: what broke off goes on, and what has another hash than its name says is not kept."""

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

PIECE = 2**20  # bytes


def download(url: str, folder: pathlib.Path, *, sha512: str | None = None) -> pathlib.Path:
    """The file of a URL, from the folder if it is there, else fetched into it.

    Args:
        url: its name ends in a dash and the first digits of its SHA-256, as in "efficientnet_b1-c27df63c.pth".
        folder: where such files are kept; beside them, as `.partial`, what has come so far of others.
        sha512: in base64, as npm has it, for a file whose name does not tell its hash.

    Raises:
        ConnectionError: it could not be fetched, or not all of it; the next call goes on from there.
        ValueError: its hash is not that one; it is deleted.
    """
    path = folder / url.rpartition("/")[2]
    digits = sha512 or _digits(url)
    if is_whole(path, digits):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            _fetch(url, partial)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"Tried {url}: {describe(error)}.") from None
    if not is_whole(partial, digits):
        partial.unlink()
        kind = "SHA-512 than was published" if sha512 else "SHA-256 than its name says"
        raise ValueError(f"What came from {url} has another {kind}, and is deleted. Try again.")
    return partial.replace(path)


def is_whole(path: pathlib.Path, digits: str) -> bool:
    """Whether there is a file with this hash: the start of a SHA-256 in hexadecimal, or a SHA-512 in base64."""
    if not path.is_file():
        return False
    if digits.endswith("=="):
        return base64.b64encode(_digest(path, "sha512").digest()).decode() == digits
    return sha256(path).startswith(digits)


def _digits(url: str) -> str:
    digits = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    if not digits:
        raise ValueError(f"The name of a file must end in the start of its SHA-256, as in b1-c27df63c.pth: {url}")
    return digits[1]


@contextlib.contextmanager
def _partial(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file of this process alone, with what an earlier one left of `path`; left to the next if this breaks off."""
    left, own = (path.with_name(f"{path.name}{middle}.partial") for middle in ("", f".{uuid.uuid4().hex}"))
    with contextlib.suppress(FileNotFoundError):
        left.rename(own)
    try:
        yield own
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            own.replace(left)
        raise


def _fetch(url: str, partial: pathlib.Path) -> None:
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if not begun or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        partial.unlink()  # it is not the beginning of this file
        return _fetch(url, partial)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            begun = 0
        total = None if response.length is None else begun + response.length  # None, too, if the header is no number
        bar = tqdm.tqdm(desc=url.rpartition("/")[2], initial=begun, total=total, unit="B", unit_scale=True)
        with partial.open("ab" if begun else "wb") as file, bar:
            while piece := response.read(PIECE):
                bar.update(file.write(piece))
    came = partial.stat().st_size
    if total is not None and came != total:
        raise ConnectionError(f"the connection ended after {came:,} of {total:,} bytes")


def sha256(path: pathlib.Path) -> str:
    """The hash of a file's content, 64 digits."""
    return _digest(path, "sha256").hexdigest()


def _digest(path: pathlib.Path, kind: str) -> "hashlib._Hash":
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest


def describe(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
