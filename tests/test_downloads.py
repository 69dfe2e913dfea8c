"""Downloads from a real local server whose files are complete, wrong, truncated or missing."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT
from support.servers import Server

from keras_efficientnet.weights.downloads import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)  # three chunks
NAME = f"b0-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def server():
    server = Server()
    server.files[f"/weights/{NAME}"] = CONTENT
    yield server
    server.stop()


@pytest.fixture
def fetch(server, tmp_path):
    return lambda: download(f"{server.url}/weights/{NAME}", tmp_path / "models")


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_leaves_the_complete_file_and_nothing_else(fetch, tmp_path):
    path = fetch()
    assert path == tmp_path / "models" / NAME
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


def test_an_existing_file_needs_no_server(server, fetch):
    path = fetch()
    server.stop()
    assert fetch() == path


def test_progress_is_shown(fetch, capsys):
    fetch()
    out, error = capsys.readouterr()
    assert not out
    assert f"{NAME}: 100%" in error and "3.00M/3.00M" in error


def test_a_file_with_another_hash_is_deleted(server, fetch, tmp_path):
    server.files[f"/weights/{NAME}"] = CONTENT[:-1] + b"?"
    with pytest.raises(
        ValueError, match=f"The file from {server.url}/weights/{NAME} has another SHA-256 than its name"
    ):
        fetch()
    assert names(tmp_path) == []
    server.files[f"/weights/{NAME}"] = CONTENT
    assert fetch().read_bytes() == CONTENT


def test_a_damaged_file_in_the_cache_is_downloaded_again(fetch):
    path = fetch()
    path.write_bytes(CONTENT[:1000])
    assert fetch().read_bytes() == CONTENT


def test_an_incomplete_download_raises_an_error_and_is_never_used(server, fetch, tmp_path):
    server.cuts = [1_500_000]
    with pytest.raises(ConnectionError, match=r"Connect.*: the connection ended after 1,500,000 of 3,000,000 bytes\.$"):
        fetch()
    assert names(tmp_path) == [f"{NAME}.partial"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_resumes_if_the_server_supports_it(server, fetch, tmp_path, ranges):
    server.cuts, server.ranges = [1_500_000], ranges
    with pytest.raises(ConnectionError):
        fetch()
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, _, asked in server.requests] == [None, "bytes=1500000-"]
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("begun", [b"?" * 1000, b"?" * 3_000_000], ids=["shorter", "as long"])
def test_a_partial_file_of_another_download_fails_at_most_once(server, fetch, tmp_path, begun):
    (tmp_path / "models").mkdir()
    (tmp_path / f"models/{NAME}.partial").write_bytes(begun)
    if len(begun) < len(CONTENT):
        with pytest.raises(ValueError, match="Try again"):
            fetch()
    assert fetch().read_bytes() == CONTENT


def test_concurrent_downloads_all_get_the_complete_file(server, fetch, tmp_path):
    server.cuts = [1_500_000]
    with pytest.raises(ConnectionError):
        fetch()
    server.pause = 0.3
    with ThreadPoolExecutor(3) as pool:
        for path in list(pool.map(lambda _: fetch(), range(3))):
            assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]
    assert [asked for _, _, asked in server.requests[1:]] == ["bytes=1500000-"]  # the others wait for the first


DOWNLOAD = """
import sys, pathlib
from keras_efficientnet.weights.downloads import download
download(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_killed_download_resumes_and_leaves_no_other_files(server, fetch, tmp_path):
    server.pause = 60  # in the middle of the answer
    command = [sys.executable, "-c", DOWNLOAD, f"{server.url}/weights/{NAME}", str(tmp_path / "models")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    partial = tmp_path / f"models/{NAME}.partial"
    while not (partial.is_file() and partial.stat().st_size >= 2**20):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = partial.stat().st_size
    server.pause = 0
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, _, asked in server.requests] == [None, f"bytes={begun}-"]
    assert names(tmp_path) == [NAME]


def test_what_earlier_versions_left_is_continued_and_deleted(server, fetch, tmp_path):
    (tmp_path / "models").mkdir()
    for digit, size in zip("abc", (1000, 2_000_000, 0), strict=True):
        (tmp_path / f"models/{NAME}.{digit * 32}.partial").write_bytes(CONTENT[:size])
    (tmp_path / "models/other.pth.partial").write_bytes(b"of another file")
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, _, asked in server.requests] == ["bytes=2000000-"]
    assert names(tmp_path) == [NAME, "other.pth.partial"]


def test_a_download_that_was_killed_before_it_was_moved_is_not_repeated(server, fetch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / f"models/{NAME}.partial").write_bytes(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert not server.requests


@pytest.mark.parametrize("end", ["", ".partial"])
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_anything_but_a_file_in_the_place_of_the_download_is_refused(server, fetch, tmp_path, kind, end):
    (tmp_path / "models").mkdir()
    place, victim = tmp_path / f"models/{NAME}{end}", tmp_path / "victim"
    victim.write_bytes(b"precious")
    {"folder": place.mkdir, "link": lambda: place.symlink_to(victim), "pipe": lambda: os.mkfifo(place)}[kind]()
    with pytest.raises(FileExistsError, match=rf"{NAME}{end} is a {kind}.*, in the place of the file to download. Mov"):
        fetch()
    assert victim.read_bytes() == b"precious" and not server.requests


def test_a_link_to_the_complete_file_is_used(fetch, tmp_path):
    (tmp_path / "shared.pth").write_bytes(CONTENT)
    (tmp_path / "models").mkdir()
    (tmp_path / f"models/{NAME}").symlink_to(tmp_path / "shared.pth")
    assert fetch().read_bytes() == CONTENT


def test_a_redirect_to_another_web_address_is_followed(server, fetch):
    server.files["/other"] = CONTENT
    server.redirects[f"/weights/{NAME}"] = f"{server.url}/other"
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_to_anything_but_http_is_refused(server, fetch, tmp_path, address):
    server.redirects[f"/weights/{NAME}"] = address
    with pytest.raises(ConnectionError, match=f"^Tried .*{address}"):
        fetch()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "address", ["file:///etc/b0-00000000.pth", "ftp://127.0.0.1/b0-00000000.pth", "b0-00000000.pth"]
)
def test_an_address_that_is_not_of_the_web_is_refused(tmp_path, address):
    with pytest.raises(ValueError, match="The URL must begin with http:// or https://. Received: "):
        download(address, tmp_path)


def test_an_unreachable_server_raises_an_error_with_the_address(server, fetch, tmp_path):
    server.stop()
    with pytest.raises(
        ConnectionError, match=rf"^Tried {server.url}/weights/{NAME}: URLError: .*Connection refused.*\.$"
    ):
        fetch()
    assert names(tmp_path) == []


def test_a_missing_file_on_the_server_raises_a_clear_error(server, fetch, tmp_path):
    server.files.clear()
    with pytest.raises(ConnectionError, match=rf"^Tried {server.url}/weights/{NAME}: HTTPError: HTTP Error 404"):
        fetch()
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", ["many", "-5", None])
def test_a_server_without_a_valid_content_length_works(server, fetch, length):
    """RFC 9112, 6.3: without it the content ends with the connection."""
    server.length = length
    assert fetch().read_bytes() == CONTENT


def test_a_name_without_its_hash_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="must end in the start of its SHA-256, as in b1-c27df63c.pth: .*b0.pth"):
        download(f"{server.url}/weights/b0.pth", tmp_path)
    assert not server.requests
