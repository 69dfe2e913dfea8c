"""Downloads from a real server on this machine, which is whole, wrong, cut off or gone."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.servers import Server

from keras_efficientnet.weights.downloads import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)  # three pieces
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


def test_a_file_comes_whole_and_alone(fetch, tmp_path):
    path = fetch()
    assert path == tmp_path / "models" / NAME
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


def test_a_file_that_is_there_needs_no_server(server, fetch):
    path = fetch()
    server.stop()
    assert fetch() == path


def test_progress_is_shown(fetch, capsys):
    fetch()
    out, error = capsys.readouterr()
    assert not out
    assert f"{NAME}: 100%" in error and "3.00M/3.00M" in error


def test_a_file_with_another_hash_is_not_kept(server, fetch, tmp_path):
    server.files[f"/weights/{NAME}"] = CONTENT[:-1] + b"?"
    with pytest.raises(
        ValueError, match=f"What came from {server.url}/weights/{NAME} has another SHA-256 than its name"
    ):
        fetch()
    assert names(tmp_path) == []
    server.files[f"/weights/{NAME}"] = CONTENT
    assert fetch().read_bytes() == CONTENT


def test_a_file_that_was_damaged_here_is_fetched_again(fetch):
    path = fetch()
    path.write_bytes(CONTENT[:1000])
    assert fetch().read_bytes() == CONTENT


def test_half_a_download_is_an_error_and_never_taken_for_the_file(server, fetch, tmp_path):
    server.cuts = [1_500_000]
    with pytest.raises(ConnectionError, match=r"Connect.*: the connection ended after 1,500,000 of 3,000,000 bytes\.$"):
        fetch()
    assert names(tmp_path) == [f"{NAME}.partial"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_broke_off_if_the_server_can(server, fetch, tmp_path, ranges):
    server.cuts, server.ranges = [1_500_000], ranges
    with pytest.raises(ConnectionError):
        fetch()
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, _, asked in server.requests] == [None, "bytes=1500000-"]
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("begun", [b"?" * 1000, b"?" * 3_000_000], ids=["shorter", "as long"])
def test_the_beginning_of_another_file_spoils_one_try_at_most(server, fetch, tmp_path, begun):
    (tmp_path / "models").mkdir()
    (tmp_path / f"models/{NAME}.partial").write_bytes(begun)
    if len(begun) < len(CONTENT):
        with pytest.raises(ValueError, match="Try again"):
            fetch()
    assert fetch().read_bytes() == CONTENT


def test_several_at_once_each_get_the_whole_file(server, fetch, tmp_path):
    server.cuts = [1_500_000]
    with pytest.raises(ConnectionError):
        fetch()
    server.pause = 0.3
    with ThreadPoolExecutor(3) as pool:
        for path in list(pool.map(lambda _: fetch(), range(3))):
            assert path.read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]
    assert sorted(str(asked) for _, _, asked in server.requests[1:]) == ["None", "None", "bytes=1500000-"]


def test_a_server_that_is_down_is_an_error_that_says_what_was_tried(server, fetch, tmp_path):
    server.stop()
    with pytest.raises(
        ConnectionError, match=rf"^Tried {server.url}/weights/{NAME}: URLError: .*Connection refused.*\.$"
    ):
        fetch()
    assert names(tmp_path) == []


def test_a_file_that_the_server_lacks_is_an_error_that_says_so(server, fetch, tmp_path):
    server.files.clear()
    with pytest.raises(ConnectionError, match=rf"^Tried {server.url}/weights/{NAME}: HTTPError: HTTP Error 404"):
        fetch()
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", ["many", "-5", None])
def test_a_server_that_does_not_know_the_length_still_gives_the_file(server, fetch, length):
    """RFC 9112, 6.3: without it the content ends with the connection."""
    server.length = length
    assert fetch().read_bytes() == CONTENT


def test_a_name_without_its_hash_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="must end in the start of its SHA-256, as in b1-c27df63c.pth: .*b0.pth"):
        download(f"{server.url}/weights/b0.pth", tmp_path)
    assert not server.requests
