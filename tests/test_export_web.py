"""The folder of the web page: files, policy, resizing against TensorFlow; the runtime; failures; the script."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import io
import json
import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from playwright._impl._driver import compute_driver_executable
from support.exports import FILES, content, make_small, write_packages
from support.images import random_images
from support.scripts import run, run_help
from support.servers import Server

from keras_efficientnet import export
from keras_efficientnet.export import npm
from keras_efficientnet.preprocessing import image_for_evaluation, make_reader
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.state import make_variant

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "keras_efficientnet/data/web"
NODE = compute_driver_executable()[0]  # comes with playwright
LABELS = [f"name of class {index}" for index in range(10)]
RESIZE = """
import { centralWindow, resize } from "PAGE/preprocessing.js";
import { readFileSync, writeFileSync } from "fs";
const { height, width, size, fraction, interpolation, half } = JSON.parse(process.argv[2]);
const { top, left, side } = centralWindow(height, width, fraction);
const rgb = readFileSync("picture");
const rgba = new Uint8ClampedArray(side * side * 4).map((_, i) => {
  const [y, x] = [Math.floor(i / 4 / side) + top, (Math.floor(i / 4) % side) + left];
  return i % 4 < 3 ? rgb[(y * width + x) * 3 + (i % 4)] : 7;
});
writeFileSync("pixels", Buffer.from(resize(rgba, side, size, interpolation, half).buffer));
"""


@pytest.fixture(scope="module")
def small():
    return make_small()


@pytest.fixture
def packages(tmp_path):
    return write_packages(tmp_path / "packages/node_modules").parent


@pytest.fixture
def export_small(small, tmp_path, packages):
    return lambda path="page", **options: export.to_web(small, tmp_path / path, runtime=packages, **options)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width", "size", "fraction"),
    [(300, 451, 64, 64 / 96), (333, 200, 64, 1.0), (8, 8, 64, 1.0), (41, 40, 224, 224 / 256), (9, 1000, 96, 0.9)],
)
def test_the_page_crops_and_resizes_as_evaluation_does(tmp_path, height, width, size, fraction, interpolation, half):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype="uint8")
    (tmp_path / "picture").write_bytes(picture.tobytes())
    (tmp_path / "resize.mjs").write_text(RESIZE.replace("PAGE", str(PAGE)))
    options = {"height": height, "width": width, "size": size, "fraction": fraction}
    options |= {"interpolation": interpolation, "half": half}
    subprocess.run([NODE, "resize.mjs", json.dumps(options)], cwd=tmp_path, check=True, timeout=600)
    pixels = np.frombuffer((tmp_path / "pixels").read_bytes(), "<f4").reshape(size, size, 3)
    options = {"crop_fraction": fraction, "interpolation": interpolation, "half_pixel_centers": half}
    expected = image_for_evaluation(tf.io.encode_png(picture), size, **options)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=2e-4)  # of 255


def test_the_folder_has_model_labels_page_and_both_builds_of_the_runtime(small, tmp_path, export_small):
    difference = export_small(labels=LABELS)
    files = {str(file.relative_to(tmp_path / "page")) for file in content(tmp_path / "page")}
    builds = {f"runtime/wasm/litert_wasm{kind}_internal.{end}" for kind in ("", "_compat") for end in ("js", "wasm")}
    scripts = {f"runtime/{name}/{file}" for name in ("core", "wasm-utils") for file in ("index.js", "package.json")}
    page = {"index.html", "page.js", "preprocessing.js", "style.css", "icon.svg"}
    assert files == {"model.tflite", "labels.txt", "settings.json", "runtime/LICENSE.txt"} | page | builds | scripts
    assert (tmp_path / "page/labels.txt").read_text("utf-8").splitlines() == LABELS
    assert (tmp_path / "page/runtime/LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()  # both Apache-2.0
    probabilities = export.load_tflite(tmp_path / "page/model.tflite")(random_images(3))
    np.testing.assert_allclose(probabilities, small(random_images(3)), atol=1e-5)
    assert 0 <= difference < 1e-5


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, and the text of scripts and title."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [("", {})], {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.elements[-1]
        self.text.setdefault((tag, attributes.get("type")), data)


def test_the_policy_of_the_page_allows_its_own_server_only_and_nothing_inline(tmp_path, export_small):
    export_small()
    page = Reader((tmp_path / "page/index.html").read_text("utf-8"))
    [policy] = [given["content"] for _, given in page.elements if given.get("http-equiv") == "Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    imports = hashlib.sha256(page.text["script", "importmap"].encode()).digest()
    own_map = f"'sha256-{base64.b64encode(imports).decode()}'"
    assert rules.pop("default-src") == ["'none'"]
    assert rules.pop("script-src") == ["'self'", "'wasm-unsafe-eval'", own_map]
    assert rules.pop("img-src") == ["'self'", "blob:"]
    assert rules == {"style-src": ["'self'"], "connect-src": ["'self'"], "base-uri": ["'none'"]} | {
        "form-action": ["'none'"]
    }
    names = {name for _, given in page.elements for name in given}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    for specifier in json.loads(page.text["script", "importmap"])["imports"].values():
        assert (tmp_path / "page" / specifier).is_file()
    for _, given in page.elements:
        for name in {"src", "href"} & {*given}:
            assert (tmp_path / "page" / given[name]).is_file() or given[name] == "http://localhost:8000"


def test_a_title_is_escaped(tmp_path, export_small):
    title = "Cats & <script>dogs</script> for $5"
    export_small(title=title)
    page = (tmp_path / "page/index.html").read_text("utf-8")
    assert "<script>dogs" not in page
    assert html.unescape(re.search("<title>(.*)</title>", page)[1]) == title
    assert html.unescape(re.search("<h1>(.*)</h1>", page)[1]) == title


def test_classes_without_names_are_numbered(tmp_path, export_small):
    export_small()
    assert (tmp_path / "page/labels.txt").read_text().splitlines() == [f"class {number}" for number in range(10)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataset": "folder", "model_name": "efficientnet-lite0", "input_image_size": 96},
        {"recipe": "official", "model_name": "efficientnet-b2-torch", "half_pixel_centers": True},
        {"recipe": "nvidia", "crop_fraction": 0.8},
    ],
)
def test_the_resampling_of_a_run_gives_the_pixels_of_its_evaluation(tmp_path, options):
    config = make_config(model_dir=str(tmp_path), **options)
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    variant = make_variant(config)
    found = export.find_resampling(make_small(shape=(variant.resolution, variant.resolution, 3)), RunFolder(tmp_path))
    data = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (301, 400, 3), dtype="uint8"))
    expected = make_reader(config, variant)(data)
    np.testing.assert_array_equal(image_for_evaluation(data, variant.resolution, **found), expected)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((32, 48, 3), {}, r"square RGB images.*\(32, 48, 3\)"),
        ((32, 32, 1), {}, "square RGB"),
        ((None, None, 3), {}, "square RGB.*input_shape"),
        ((32, 32, 3), {"labels": ["one"]}, "10 classes"),
        ((32, 32, 3), {"crop_fraction": 1.5}, r"in \(0, 1\].*1.5"),
        ((32, 32, 3), {"interpolation": "nearest"}, "bicubic, bilinear.*nearest"),
    ],
)
def test_a_model_or_option_that_the_page_does_not_support_is_refused(tmp_path, packages, shape, options, message):
    with pytest.raises(ValueError, match=message):
        export.to_web(make_small(shape=shape), tmp_path / "page", runtime=packages, **options)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_page_and_leaves_no_other_files(monkeypatch, tmp_path, export_small, error):
    export_small()
    before = content(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(export.tflite, "check_exact", fail)
    with pytest.raises(error):
        export_small(overwrite=True)
    assert content(tmp_path) == before
    assert {*tmp_path.iterdir()} == {tmp_path / "page", tmp_path / "packages"}


def test_a_page_is_replaced_only_with_overwrite(tmp_path, export_small):
    export_small(title="old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_small(title="new")
    assert "<title>old" in (tmp_path / "page/index.html").read_text()
    (tmp_path / "page/stranger").touch()
    export_small(title="new", overwrite=True)
    assert "<title>new" in (tmp_path / "page/index.html").read_text()
    assert not (tmp_path / "page/stranger").exists()


def test_a_folder_with_other_files_is_never_replaced(tmp_path, export_small):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that this export did not write"):
        export_small("site", overwrite=True)
    assert [file.name for file in content(tmp_path / "site")] == ["index.html"]


def test_a_page_has_the_permissions_of_a_new_folder(tmp_path, export_small):
    export_small()
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "page").stat().st_mode == (tmp_path / "usual").stat().st_mode


def pack(package):
    """A tarball as `npm pack` writes it, with one file more than the page needs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file in (*package.files, "wasm/litert_wasm_threaded_internal.wasm"):
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file.encode()))
    return stream.getvalue()


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry with packages of the pinned names, and a cache of its own."""
    server = Server()
    packed = [pack(package) for package in npm.RUNTIME]
    hashes = [base64.b64encode(hashlib.sha512(data).digest()).decode() for data in packed]
    runtime = [package._replace(sha512=digest) for package, digest in zip(npm.RUNTIME, hashes, strict=True)]
    monkeypatch.setattr(npm, "RUNTIME", tuple(runtime))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{server.url}/npm/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for package, data in zip(runtime, packed, strict=True):
        server.files[f"/npm/{package.name}/-/{package.tarball}"] = data
    yield server
    server.stop()


def test_the_runtime_is_downloaded_once(registry, tmp_path):
    assert npm.read_runtime() == FILES
    assert [path for _, path, _ in registry.requests] == [*registry.files]
    registry.stop()
    assert npm.read_runtime() == FILES
    assert {file.name for file in content(tmp_path)} == {"core-2.5.3.tgz", "wasm-utils-2.5.3.tgz"}


def test_a_runtime_that_is_not_the_published_one_is_removed(registry, tmp_path):
    name = [*registry.files][0]
    registry.files[name] += b"?"
    with pytest.raises(
        ValueError, match=f"{name} has another SHA-512 than the published one.*npm pack @litertjs/core@2.5.3 "
    ):
        npm.read_runtime()
    assert not content(tmp_path)


def test_a_failed_download_is_one_line_with_what_was_tried_and_what_to_do(registry, small, tmp_path):
    registry.stop()
    tried = rf"Tried {registry.url}/npm/@litertjs/core/-/core-2.5.3.tgz: URLError: .*refused"
    with pytest.raises(ConnectionError, match=rf"not in {tmp_path}/keras/npm\. {tried}.*npm pack.*--runtime=FOLDER"):
        export.to_web(small, tmp_path / "page")
    assert not content(tmp_path)


@pytest.mark.parametrize("name", ["packed", "tarball"])
def test_a_folder_with_the_packed_runtime_needs_no_network(registry, tmp_path, name):
    for package, data in zip(npm.RUNTIME, registry.files.values(), strict=True):
        (tmp_path / getattr(package, name)).write_bytes(data)
    assert npm.read_runtime(tmp_path) == FILES
    (tmp_path / getattr(npm.RUNTIME[1], name)).write_bytes(b"?")
    with pytest.raises(ValueError, match=r"wasm-utils-2.5.3.tgz is not the published file"):
        npm.read_runtime(tmp_path)
    assert not registry.requests


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder.rename(folder.with_name("other")), "There is no folder '.*packages'"),
        (
            lambda folder: (folder / "node_modules").rename(folder / "other"),
            "neither litertjs-core-2.5.3.tgz nor node_",
        ),
        (
            lambda folder: (folder / "node_modules/@litertjs/core/dist/index.js").unlink(),
            "is incomplete: dist/index.js not",
        ),
        (lambda folder: write_packages(folder / "node_modules", "9.1"), "version 9.1, the page needs 2.5.3"),
    ],
)
def test_a_folder_without_the_runtime_is_an_error_that_names_the_files(packages, spoil, message):
    spoil(packages)
    with pytest.raises((FileNotFoundError, ValueError), match=f"{message}.*npm pack"):
        npm.read_runtime(packages)


def test_the_script_writes_a_page_for_a_run_and_prints_how_to_open_it(small, tmp_path, packages):
    (tmp_path / "run").mkdir()
    small.save(tmp_path / "run/model.keras")
    (tmp_path / "run/labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    options = ["--model=run", "--output=page", f"--runtime={packages}", "--title=Digits"]
    code, lines, errors = run(ROOT / "export/to_web.py", *options, cwd=tmp_path)
    assert (code, errors) == (0, [])
    assert re.fullmatch(r"page: 0\.0 MB; probabilities differ from the model's by up to \d\S*", lines[0])
    assert lines[1:] == ["To open it: python -m http.server -d page, then http://localhost:8000"]
    assert (tmp_path / "page/labels.txt").read_text().splitlines() == LABELS
    code, lines, [error] = run(ROOT / "export/to_web.py", *options, cwd=tmp_path)
    assert (code, lines) == (1, [])
    assert error.startswith("to_web.py: page exists. Choose another path")


@pytest.mark.network
def test_the_example_in_the_help_of_the_script_runs_as_printed(small, tmp_path):
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "runs/efficientnet-b0").mkdir(parents=True)
    small.save(tmp_path / "runs/efficientnet-b0/model.keras")
    [example] = [line for line in run_help("export/to_web.py") if line.startswith("python export/")]
    code, lines, _ = run(*shlex.split(example)[1:], cwd=tmp_path)
    assert (code, lines[0].startswith("runs/b0_web: 19.")) == (0, True)
    for name in ("litert_wasm_internal.wasm", "litert_wasm_compat_internal.wasm"):
        assert (tmp_path / "runs/b0_web/runtime/wasm" / name).read_bytes()[:4] == b"\0asm"


@pytest.mark.network
def test_the_hashes_of_the_runtime_are_those_the_registry_publishes():
    for package in npm.RUNTIME:
        command = ["npm", "view", f"{package.name}@{package.version}", "dist.integrity", "license"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=os.environ)
        assert f"'sha512-{package.sha512}'" in done.stdout and "'Apache-2.0'" in done.stdout
