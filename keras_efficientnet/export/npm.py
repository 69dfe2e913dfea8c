"""Fetches the npm packages that run a TFLite file in a browser, checks them, and reads the files that a page needs."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
from typing import NamedTuple

from keras_efficientnet.weights.downloads import download, is_complete

REGISTRY = "https://registry.npmjs.org/"


class Package(NamedTuple):
    """A published package."""

    name: str
    version: str
    sha512: str  # of the tarball, in base64: `npm view NAME@VERSION dist.integrity`
    files: tuple[str, ...]  # that a page needs

    @property
    def tarball(self) -> str:
        """File name in the registry."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def packed(self) -> str:
        """File name that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# A browser loads one of the two builds: "compat" is for browsers without relaxed SIMD, for example Safari.
RUNTIME = (
    Package(
        name="@litertjs/core",
        version="2.5.3",
        sha512="PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        files=(
            "package.json",
            "dist/index.js",
            "wasm/litert_wasm_internal.js",
            "wasm/litert_wasm_internal.wasm",
            "wasm/litert_wasm_compat_internal.js",
            "wasm/litert_wasm_compat_internal.wasm",
        ),
    ),
    Package(
        name="@litertjs/wasm-utils",
        version="2.5.3",
        sha512="4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        files=("package.json", "dist/index.js"),
    ),
)


def read_runtime(folder: str | os.PathLike[str] | None = None) -> dict[str, bytes]:
    """Returns the files of `RUNTIME`: "@litertjs/core/dist/index.js" -> its bytes.

    Args:
        folder: folder with the packages, as `npm pack` writes them or in a `node_modules`; nothing is downloaded then.
            By default they come from the registry that npm is configured for, and are cached in `npm/` in Keras's
            folder (KERAS_HOME, else ~/.keras).

    Raises:
        FileNotFoundError: the packages are not in the folder; the message names the files that were expected.
        ConnectionError: the download failed; the message says what was tried and what to do.
        ValueError: the packages are not the published ones, or have another version.
    """
    files: dict[str, bytes] = {}
    for package in RUNTIME:
        files |= _unpack(package, _fetch(package)) if folder is None else _find(package, pathlib.Path(folder))
    return files


def _unpack(package, tarball) -> dict[str, bytes]:
    with tarfile.open(tarball) as archive:
        members = {name: archive.extractfile(f"package/{name}") for name in package.files}
        return {f"{package.name}/{name}": member.read() for name, member in members.items() if member}


def _find(package, folder) -> dict[str, bytes]:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}. {_advice()}")
    for name in (package.packed, package.tarball):
        if (folder / name).is_file():
            if not is_complete(folder / name, package.sha512):
                raise ValueError(f"{folder / name} is not the published file: its SHA-512 is another. {_advice()}")
            return _unpack(package, folder / name)
    for installed in (folder / "node_modules" / package.name, folder / package.name):
        if installed.is_dir():
            return _read_installed(package, installed)
    raise FileNotFoundError(f"{folder} has neither {package.packed} nor node_modules/{package.name}. {_advice()}")


def _read_installed(package, installed) -> dict[str, bytes]:
    missing = [name for name in package.files if not (installed / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{installed} is incomplete: {', '.join(missing)} not found. {_advice()}")
    version = json.loads((installed / "package.json").read_text("utf-8")).get("version")
    if version != package.version:
        raise ValueError(f"{installed} has version {version}, the page needs {package.version}. {_advice()}")
    return {f"{package.name}/{name}": (installed / name).read_bytes() for name in package.files}


def _fetch(package) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "npm"
    if is_complete(folder / package.tarball, package.sha512):
        return folder / package.tarball
    url = f"{_registry()}/{package.name}/-/{package.tarball}"
    try:
        return download(url, folder, sha512=package.sha512)
    except (ConnectionError, ValueError) as error:
        raise type(error)(f"The browser's runtime is not in {folder}. {error} {_advice()}") from None


def _advice() -> str:
    packages = " ".join(f"{package.name}@{package.version}" for package in RUNTIME)
    folder = "its folder: runtime=FOLDER, --runtime=FOLDER"
    return f"On a machine with internet access, run `npm pack {packages}`, and give {folder}."


def _registry() -> str:
    """Returns the registry that npm is configured for, without a slash at its end, or the public registry."""
    address = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [shutil.which("npm") or "npm", "config", "get", "registry"]
        address = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    return (address or os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY).rstrip("/")
