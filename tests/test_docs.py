"""README.md, CONTRIBUTING.md and docs/: their links, commands, Python blocks, tables and named tests are right."""

import ast
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import make_docs
import measure_seeds
import numpy as np
import pytest
import tensorflow as tf
from make_docs import PAGES, ROOT

import keras_efficientnet
from keras_efficientnet import training
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.models import make_model

README = ROOT / "README.md"
PROGRAMS = [ROOT / "main.py", *sorted((ROOT / "export").glob("*.py"))]
SCRIPTS = [path.relative_to(ROOT).as_posix() for path in PROGRAMS if "__main__" in path.read_text("utf-8")]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = {  # a line of each Python block that does not run here -> why
    'model = keras_efficientnet.EfficientNetB0(weights="imagenet")': "downloads weights",
    'path = pretrained.fetch(pretrained.find("efficientnet-b0", "advprop"))': "downloads weights",
    'keras_efficientnet.load_weights(model, "tf_efficientnet_b0.aa_in1k")': "downloads weights",
    "results = training.run(config)": "trains for minutes",
    'layer = hub.KerasLayer("b0_features", trainable=True)': "needs Keras 2, in a process of its own",
    'export.to_tflite(model, "b0_int8.tflite", quantize="int8", images=images)': "test_export_tflite.py quantises",
}


def page_id(path):
    return str(path.relative_to(ROOT))


def fenced(page, *languages):
    """The fenced blocks of a page in one of the languages."""
    return [text for language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


def prose(page):
    """The text of a page without fenced blocks and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text("utf-8")))


# Size and form


def test_readme_has_at_most_150_lines():
    assert len(README.read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_headings_are_real_headings(page):
    assert not re.findall(r"^\*\*[^*]+\*\*[.:]?", prose(page), re.MULTILINE)
    assert prose(page).startswith("# ")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=page_id)
def test_a_page_opens_with_a_command_or_code(page):
    if page.name in ("index.md", "api.md"):
        return
    before = page.read_text("utf-8").split("```")[0]
    assert len(before.splitlines()) <= 5


def test_every_page_is_in_the_readme_and_in_the_site():
    names = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert {name for name in names if f"](docs/{name}.md)" in README.read_text("utf-8")} == names
    [listed] = fenced(ROOT / "docs/index.md", "{toctree}")
    assert set(listed.split()[2:]) == names


# Links


def slugs(page):
    """The anchors that GitHub and MyST give the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_and_anchor_resolves(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in (link for link in links if not re.match("https?:", link)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_test_file_that_a_page_names_exists(page):
    for path, name in re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", page.read_text("utf-8")):
        assert (ROOT / path).is_file(), path
        names = {node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if hasattr(node, "name")}
        assert not name or name in names, f"{path}::{name}"


def test_reliability_names_a_test_for_every_promise():
    rows = re.findall(r"^\| (?!what happens|---)(.+) \|$", (ROOT / "docs/reliability.md").read_text("utf-8"), re.M)
    assert len(rows) > 20
    assert not [row for row in rows if not re.search(r"`tests/\w+\.py::test_\w+`$", row)]


def test_reliability_says_which_tests_are_slow():
    text = (ROOT / "docs/reliability.md").read_text("utf-8")
    for mark, path, name in re.findall(r"(slow: )?`(tests/\w+\.py)::(\w+)`", text):
        [test] = [n for n in ast.parse((ROOT / path).read_text("utf-8")).body if getattr(n, "name", None) == name]
        slow = "pytest.mark.slow" in {ast.unparse(decorator) for decorator in test.decorator_list}
        assert bool(mark) == slow, name


# Tables


def test_generated_tables_are_what_the_generator_writes():
    """If this fails: `python tests/make_docs.py`."""
    used = []
    for page in PAGES:
        text = page.read_text("utf-8")
        assert make_docs.fill(text) == text, page
        used += [found[2] for found in make_docs.MARKED.finditer(text)]
    assert sorted(used) == sorted(make_docs.TABLES)


def test_installation_explains_every_dependency():
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    call = next(node.value for node in tree.body if ast.unparse(node).startswith("setup("))
    required = ast.literal_eval(next(word.value for word in call.keywords if word.arg == "install_requires"))
    tables = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    extras, development = ast.literal_eval(tables["EXTRAS"]), ast.literal_eval(tables["DEVELOPMENT"])
    text = (ROOT / "docs/installation.md").read_text("utf-8")
    rows = {row.split(" | ")[0].strip("|` "): row for row in text.splitlines() if row.startswith("| ")}
    for package in required:
        assert any(bare(package) in key.split(", ") for key in rows), package
    for extra, packages in (extras | {"dev": development}).items():
        assert {bare(package) for package in packages} <= set(re.findall(r"[\w-]+", rows[extra].split(" | ")[1])), extra


def bare(requirement):
    """The name of the package in a requirement."""
    return re.match(r"[\w-]+", requirement)[0]


# Commands


def commands():
    """(page, arguments) of each command of a script of this repository."""
    for page in PAGES:
        for line in "\n".join(fenced(page, "")).splitlines():
            for part in line.split("  #")[0].split(" && "):
                words = shlex.split(part)
                if words[:1] == ["python"] and words[1] in SCRIPTS:
                    yield page_id(page), words[1:]


PARSE = """
import json, os, runpy, sys
from absl import flags
sys.path[:0] = [".", os.path.dirname(sys.argv[1])]
script = runpy.run_path(sys.argv[1], run_name="script")
for page, words in json.loads(sys.argv[2]):
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    rest = flags.FLAGS(words)
    assert rest[1:] == [], (page, rest)
    if words[0] == "main.py":
        given = {word[2:].split("=")[0].removeprefix("no") for word in words[1:]}
        options = {name: flags.FLAGS[name].value for name in given}
        script["make_config"](**options | {"eval_timeout": None})  # it would wait for a run
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_parses(script):
    """Each flag exists, its value is valid and no required flag is missing."""
    found = [(page, words) for page, words in commands() if words[0] == script]
    assert found, f"No page shows a command of {script}"
    command = [sys.executable, "-c", PARSE, script, json.dumps(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_flags_in_the_text_exist():
    """`--name=value` in a sentence or a table, outside the table of removed flags."""
    known = set()
    for script in SCRIPTS:
        done = subprocess.run([sys.executable, script, "--helpfull"], cwd=ROOT, capture_output=True, text=True)
        known |= set(re.findall(r"^ *--(?:\[no\])?(\w+)", done.stdout, re.MULTILINE))
    for page in PAGES:
        text = prose(page).split("### Removed flags")[0]
        for name in re.findall(r"`--(\w+)", text):
            assert name in known or name.removeprefix("no") in known, f"{page.name}: --{name}"


# Python


@pytest.fixture
def workplace(tmp_path, monkeypatch, tiny):
    """A folder with a run, images and class folders, and names that the examples use."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    run = tmp_path / "runs/efficientnet-b0"
    run.mkdir(parents=True)
    make_model(tiny, classes=10).save(run / "model.keras")
    (run / "labels.txt").write_text("".join(f"digit {number}\n" for number in range(10)))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    for name, encode in (("cat.jpg", tf.io.encode_jpeg), ("dog.png", tf.io.encode_png)):
        tf.io.write_file(name, encode(images[0].astype("uint8")))
    for name, number in itertools.product("abcde", range(2)):
        tf.io.write_file(f"flowers/{name}/{number}.png", tf.io.encode_png(images[number].astype("uint8")))
    return {"images": images, "tiny": tiny}


def python_pages():
    """Pages with Python; those that build, train or export full networks are slow."""
    slow = ("README.md", "docs/export.md", "docs/models.md")
    pages = [page for page in PAGES if fenced(page, "python")]
    return [pytest.param(page, marks=[pytest.mark.slow] if page_id(page) in slow else []) for page in pages]


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")  # Keras, whenever `fit` gets a tf.data set
@pytest.mark.parametrize("page", python_pages(), ids=page_id)
def test_python_blocks_run(page, workplace):
    """One after the other, in one namespace, as a reader would type them."""
    for number, block in enumerate(fenced(page, "python"), start=1):
        code = compile(block, f"{page_id(page)}, Python block {number}", "exec")
        if not any(line in block for line in NOT_RUN):
            exec(code, workplace)


def test_every_block_that_does_not_run_is_still_there():
    blocks = [block for page in PAGES for block in fenced(page, "python")]
    for line in NOT_RUN:
        assert len([block for block in blocks if line in block]) == 1, line


def test_the_two_commands_come_first_and_ci_runs_the_second():
    first, *_ = fenced(README, "")
    lines = [line.split("#")[0].strip() for line in first.splitlines()]
    assert lines == ["pip install -e . && python main.py", 'pip install -e ".[dev]" && pytest']
    assert lines[1] in (ROOT / ".ci/run").read_text("utf-8")


def test_api_has_every_public_function():
    text = (ROOT / "docs/api.md").read_text("utf-8")
    names = [*keras_efficientnet.__all__, *(f"training.{name}" for name in training.__all__)]
    assert not [name for name in names if not re.search(rf"keras_efficientnet\.{name}$|`{name}`", text, re.MULTILINE)]


def test_training_states_what_the_nearest_neighbour_reaches():
    assert f"{100 * measure_seeds.nearest_neighbour():.2f} %" in (ROOT / "docs/training.md").read_text("utf-8")


def test_spread_over_seeds_is_the_standard_deviation_of_a_sample():
    """By hand: mean 99.2, deviations -0.2, 0 and 0.2, so sqrt(0.08 / 2)."""
    expected = "99.20 % on average, standard deviation 0.20, 99.00 to 99.40 %"
    assert measure_seeds.describe([0.99, 0.992, 0.994]) == expected


def test_readme_counts_the_networks():
    assert f"[All {len(VARIANTS)} networks]" in README.read_text("utf-8")


def test_no_page_points_outside_the_repository():
    tracked = [path for path in ROOT.rglob("*") if path.suffix in (".py", ".md", ".toml", ".cff", ".yml")]
    own = [path for path in tracked if not re.search(r"/(\.\w+|build|dist|\w+\.egg-info)/", path.as_posix())]
    outside = re.compile(r"\.\./shared|\bfacts/")
    assert not [page_id(path) for path in own if path != Path(__file__) and outside.search(path.read_text("utf-8"))]


def test_package_metadata_links_are_absolute():
    source = (ROOT / "setup.py").read_text("utf-8").split("\nsetup(")[0]
    names = {"__file__": str(ROOT / "setup.py")}
    exec(compile(source, "setup.py", "exec"), names)
    links = re.findall(r"\]\(([^)\s]+)\)", names["read_description"]())
    assert len(links) > 15 and all(Path(link).name and link.startswith("https://") for link in links)
    assert all(package in names["EXTRAS"]["dev"] for extra in names["EXTRAS"].values() for package in extra)
