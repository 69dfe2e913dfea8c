"""The table of published weights, and their download: a real server and cache, at a local address."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.servers import B0, COMMIT, Server, place

from keras_efficientnet.architectures import OTHER_NAMES, VARIANTS
from keras_efficientnet.weights import pretrained

ROOT = Path(__file__).parent.parent
REMOTE = "/timm/tf_efficientnet_b0.aa_in1k/resolve/main/model.safetensors"
CONTENT = np.random.default_rng(0).bytes(100_000)

FETCH = """
import json
from keras_efficientnet.weights import pretrained
try:
    print(json.dumps(["path", str(pretrained.fetch(pretrained.find("efficientnet-b0", "imagenet")))]))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def server():
    server = Server()
    server.files[REMOTE] = CONTENT
    yield server
    server.stop()


@pytest.fixture
def fetch(tmp_path):
    """Fetches B0's "imagenet" in a fresh process, because huggingface_hub reads its environment once."""

    def run(**environment):
        base = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-W", "error", "-c", FETCH]
        done = subprocess.run(command, cwd=ROOT, env=base | environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# The table


def test_no_published_file_is_missing_or_wrong(golden):
    expected = golden("pretrained")["files"]
    columns = ["statistics", "resolution", "crop_fraction", "interpolation", "top_1", "top_5", "file"]
    assert {row.key: {name: getattr(row, name) for name in columns} for row in pretrained.PRETRAINED} == expected
    assert {row.variant for row in pretrained.PRETRAINED} == set(VARIANTS)
    for row in pretrained.PRETRAINED:
        assert OTHER_NAMES.get(row.key.split(".")[0], row.key.split(".")[0]) == row.variant


def test_repositories_and_addresses_are_those_of_timm_and_torchvision():
    """timm/models/efficientnet.py of huggingface/pytorch-image-models; torchvision/models/efficientnet.py."""
    timm = "https://github.com/huggingface/pytorch-image-models/releases/download"
    for model, name, repository, url in (
        ("b0", "ap_in1k", "timm/tf_efficientnet_b0.ap_in1k", f"{timm}/v0.1-weights/tf_efficientnet_b0_ap-f262efe1.pth"),
        ("b1-pruned", "in1k", "timm/efficientnet_b1_pruned.in1k", f"{timm}/v0.1-tresnet/effnetb1_pruned-bea43a3a.pth"),
        ("b0-torch", "ra4_e3600_r224_in1k", "timm/efficientnet_b0.ra4_e3600_r224_in1k", None),
        ("b1-torch", "IMAGENET1K_V2", None, "https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth"),
    ):
        row = pretrained.find(f"efficientnet-{model}", name)
        assert (row.repository, row.url) == (repository, url)


def test_every_row_has_a_source_and_every_file_name_has_a_hash():
    for row in pretrained.PRETRAINED:
        assert row.repository or row.url
        assert row.file is None or re.search(r"-[0-9a-f]{8}\.pth$", row.file)


def test_the_accuracies_of_the_networks_are_those_of_the_imagenet_weights():
    """Up to 0.6 %: the -torch rows have torchvision's measurements, at other resolutions than timm's."""
    for name, variant in VARIANTS.items():
        if name != "efficientnet-l2":
            row = pretrained.find(name, "imagenet")
            assert abs(row.top_1 - variant.top_1) < (0.6 if row.variant.endswith("-torch") else 1e-9), row
            assert row.tag in {"aa_in1k", "in1k"} or name == "efficientnet-b8" or name.endswith("-torch")


@pytest.mark.parametrize(
    ("model", "name", "key"),
    [
        ("efficientnet-b0", "imagenet", "tf_efficientnet_b0.aa_in1k"),
        ("tf_efficientnet_b7", "imagenet", "tf_efficientnet_b7.aa_in1k"),
        ("efficientnet-b8", "imagenet", "tf_efficientnet_b8.ra_in1k"),
        ("efficientnet-lite4", "imagenet", "tf_efficientnet_lite4.in1k"),
        ("efficientnet-b1-torch", "imagenet", "efficientnet_b1.ft_in1k"),
        ("efficientnet-b7-torch", "imagenet", "efficientnet-b7-torch.IMAGENET1K_V1"),
        ("efficientnet-b3", "autoaugment", "tf_efficientnet_b3.aa_in1k"),
        ("efficientnet-b5", "randaugment", "tf_efficientnet_b5.ra_in1k"),
        ("efficientnet-b8", "advprop", "tf_efficientnet_b8.ap_in1k"),
        ("efficientnet-l2", "noisy-student", "tf_efficientnet_l2.ns_jft_in1k"),
        ("efficientnet-l2", "ns_jft_in1k_475", "tf_efficientnet_l2.ns_jft_in1k_475"),
        ("efficientnet-b2", "in1k", "tf_efficientnet_b2.in1k"),
        ("efficientnet-b2", "tf_efficientnet_b2.ap_in1k", "tf_efficientnet_b2.ap_in1k"),
        ("efficientnet-b1-torch", "efficientnet_b1.IMAGENET1K_V2", "efficientnet_b1.IMAGENET1K_V2"),
    ],
)
def test_names_find_their_file(model, name, key):
    row = pretrained.find(model, name)
    assert row.key == key
    assert name in (*row.names, row.tag, row.key)


@pytest.mark.parametrize("name", ["imagenet", "tf_efficientnet_b0.ns_jft_in1k", "noisystudent"])
def test_unknown_weights_raise_an_error_that_lists_the_known_ones(name):
    message = (
        rf"^There are no weights '{name}' of efficientnet-l2. Choose one of: 'ns_jft_in1k_475'; "
        r"'noisy-student', 'ns_jft_in1k'; or the path of a file.$"
    )
    with pytest.raises(ValueError, match=message):
        pretrained.find("efficientnet-l2", name)


def test_official_weights_have_their_licence_and_others_none():
    assert pretrained.find("efficientnet-condconv-b0-4e", "imagenet").licence == "Apache-2.0"
    assert {row.licence for row in pretrained.list_pretrained("*-torch")} == {None}


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("efficientnet-b8", ["tf_efficientnet_b8.ap_in1k", "tf_efficientnet_b8.ra_in1k"]),
        ("tf_efficientnet_l2*", ["tf_efficientnet_l2.ns_jft_in1k_475", "tf_efficientnet_l2.ns_jft_in1k"]),
        (
            "*.ra_in1k",
            [f"{name}.ra_in1k" for name in ("tf_efficientnet_b5", "tf_efficientnet_b7", "tf_efficientnet_b8")]
            + ["efficientnet_b0.ra_in1k", "efficientnet_b2.ra_in1k"],
        ),
        ("*v2_s*", []),
    ],
)
def test_list_pretrained_matches_shell_patterns(pattern, keys):
    assert [row.key for row in pretrained.list_pretrained(pattern)] == keys


def test_list_pretrained_needs_neither_keras_nor_a_network(run_python):
    code = "import sys, keras_efficientnet as ke; print(len(ke.list_pretrained()))\n"
    code += "print({'keras', 'tensorflow', 'huggingface_hub'} & set(sys.modules))"
    assert run_python(code).split("\n")[:2] == [str(len(pretrained.PRETRAINED)), "set()"]


# Names and paths


@pytest.mark.parametrize("name", ["imagenet", "ap_in1k", "tf_efficientnet_b0.ap_in1k"])
def test_an_existing_file_wins_over_published_weights_and_a_folder_does_not(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert pretrained.is_name(name)
    (tmp_path / name).mkdir()
    assert pretrained.is_name(name)
    (tmp_path / name).rmdir()
    (tmp_path / name).touch()
    assert not pretrained.is_name(name)


def test_a_plain_word_is_a_name_and_anything_with_an_ending_or_a_folder_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.is_name("noisystudent")
    (tmp_path / "run").mkdir()
    for path in ("run", "b0.safetensors", "folder/imagenet", "model.ckpt-1", Path("imagenet"), None):
        assert not pretrained.is_name(path)


# Fetching


def test_a_file_is_downloaded_from_the_hub_once(server, fetch, tmp_path):
    kind, path = fetch(HF_ENDPOINT=server.url)
    assert kind == "path", path
    assert Path(path) == tmp_path / "hf/hub" / B0 / "snapshots" / COMMIT / "model.safetensors"
    assert Path(path).read_bytes() == CONTENT
    server.requests.clear()
    assert fetch(HF_ENDPOINT=server.url) == [kind, path]
    assert not server.requests
    assert fetch(HF_HUB_OFFLINE="1") == [kind, path]


def test_a_cached_file_needs_no_network(fetch, tmp_path):
    path = place(tmp_path / "hf", CONTENT)
    assert fetch(HF_HUB_OFFLINE="1") == ["path", str(path)]
    assert fetch(HF_ENDPOINT="http://127.0.0.1:9") == ["path", str(path)]


LINE = (
    r"The weights tf_efficientnet_b0\.aa_in1k are not in the cache\. Tried {}/timm/tf_efficientnet_b0\.aa_in1k/"
    r"model\.safetensors: {}\. Or download https://github\.com/\S+/tf_efficientnet_b0_aa-827b6e33\.pth yourself and "
    r'pass its path: weights="path/to/file"\.'
)


def test_without_a_network_the_error_has_the_address_and_an_alternative(fetch, tmp_path):
    kind, message = fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert kind == "ConnectionError"
    assert re.fullmatch(LINE.format("http://127.0.0.1:9", ".*Connection refused"), message)
    assert not files(tmp_path)


def test_offline_mode_raises_a_clear_error(fetch, tmp_path):
    kind, message = fetch(HF_HUB_OFFLINE="1")
    assert kind == "ConnectionError"
    assert re.fullmatch(LINE.format("https://huggingface.co", ".*HF_HUB_OFFLINE.*"), message)
    assert not files(tmp_path)


def test_a_file_of_the_hub_with_another_hash_is_deleted(server, fetch, tmp_path):
    server.tags[REMOTE] = hashlib.sha256(b"another").hexdigest()
    kind, message = fetch(HF_ENDPOINT=server.url)
    assert kind == "ValueError"
    assert f"{server.url}/timm/tf_efficientnet_b0.aa_in1k/model.safetensors has another SHA-256" in message
    assert CONTENT not in files(tmp_path).values()
    server.tags.clear()
    kind, path = fetch(HF_ENDPOINT=server.url)
    assert kind == "path" and Path(path).read_bytes() == CONTENT


def test_an_interrupted_download_from_the_hub_resumes(server, fetch):
    server.cuts = [40_000]
    kind, path = fetch(HF_ENDPOINT=server.url)
    assert kind == "path" and Path(path).read_bytes() == CONTENT
    assert [method for method, _, _ in server.requests].count("GET") == 2


@pytest.mark.slow
def test_a_download_from_the_hub_that_never_completes_leaves_no_file(server, fetch, tmp_path):
    server.cuts = [40_000] * 40
    kind, message = fetch(HF_ENDPOINT=server.url)
    assert kind == "ConnectionError"
    assert re.fullmatch(LINE.format(server.url, ".*closed connection.*"), message)
    assert max(map(len, files(tmp_path).values())) < 1000  # files of huggingface_hub about the repository


def test_without_huggingface_hub_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as for a module that cannot be imported
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install 'keras_efficientnet\[weights\]'\. Or download https://git"
    ):
        pretrained.fetch(pretrained.find("efficientnet-b0", "imagenet"))


def test_a_file_outside_the_hub_is_downloaded_into_the_folder_of_keras(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    name = f"b1-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
    server.files[f"/models/{name}"] = CONTENT
    row = pretrained.find("efficientnet-b1-torch", "IMAGENET1K_V2")._replace(file=name, folder=f"{server.url}/models/")
    assert pretrained.fetch(row) == tmp_path / "models" / name
    server.stop()
    assert pretrained.fetch(row).read_bytes() == CONTENT
    shutil.rmtree(tmp_path / "models")
    message = rf"^The weights {row.key} are .* Tried {row.url}: .* refused.*\. Or download {row.url} yourself"
    assert row.key == "efficientnet_b1.IMAGENET1K_V2"
    with pytest.raises(ConnectionError, match=message):
        pretrained.fetch(row)
