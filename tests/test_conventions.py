"""The house of DESIGN and STYLE: imports only go down, files and functions stay small, public names are listed."""

import ast
import importlib
from pathlib import Path

import pytest

import keras_efficientnet

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_efficientnet"
FLOORS = (
    {"architectures", "augmentation", "config", "files", "layers", "optimizers", "preprocessing"},
    {"blocks", "datasets", "evaluation", "profiling", "runs", "runtimes"},
    {"recipes"},
    {"weights"},
    {"models"},
    {"export"},
    {"benchmark", "training"},
)
ROOF = [ROOT / "main.py", *sorted((ROOT / "export").glob("*.py"))]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
EVERYTHING = [*MODULES, PACKAGE / "__init__.py", *ROOF, ROOT / "setup.py", *sorted((ROOT / "tests").glob("*.py"))]


def house_name(path):
    """The module of a file, or of the folder that the module has become."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path):
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras_efficientnet":
            inner = node.module.split(".")[1:]
            yield from inner[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("keras_efficientnet."))


def functions(path):
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_every_module_has_a_floor():
    assert {house_name(path) for path in MODULES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_imports_only_go_down(path):
    own = house_name(path)
    above = [name for name in imported(path) if name != own and floor(name) >= floor(own)]
    assert not above, f"{own} imports {above}, which are not below it"


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_and_functions_stay_small(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400
    most = 80 if path.parent.name == "tests" else 50
    long = [node.name for node in functions(path) if node.end_lineno - node.lineno + 1 > most]
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_only_the_roof_prints_exits_and_reads_flags(path):
    tree = ast.parse(path.read_text("utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"print", "exit", "sys.exit", "input"}
    assert "absl" not in path.read_text("utf-8") and "argv" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_public_functions_say_what_they_do(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert module.__doc__
    tree = ast.parse(path.read_text("utf-8"))
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node) and len(node.body) > 1]


def test_public_list_is_the_documented_one():
    builders = [f"EfficientNet{name}" for name in ("B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "L2")]
    builders += [f"EfficientNet{name}" for name in ("CondConvB0_4E", "CondConvB0_8E", "CondConvB1_8E")]
    builders += [f"EfficientNet{name}" for name in ("B1Pruned", "B2Pruned", "B3Pruned")]
    builders += [f"EfficientNet{name}" for name in ("Lite0", "Lite1", "Lite2", "Lite3", "Lite4")]
    builders += [f"EfficientNet{name}" for name in ("EdgeTPUS", "EdgeTPUM", "EdgeTPUL")]
    builders += [f"EfficientNetB{number}Torch" for number in range(8)]
    functions = ["create_model", "decode_predictions", "features", "list_models", "list_pretrained", "load_model"]
    functions += ["load_weights", "preprocess_input", "profile"]
    assert sorted(keras_efficientnet.__all__) == sorted(builders + functions)
    for name in keras_efficientnet.__all__:
        assert getattr(keras_efficientnet, name).__doc__


def test_readme_says_what_is_measured():
    """The table of models and the two commands in README.md are those that the code and .ci/run use."""
    import make_readme

    readme = (ROOT / "README.md").read_text("utf-8")
    assert make_readme.table() in readme
    commands = readme.split("```")[1].split("\n", 1)[1].strip().splitlines()
    assert [line.split("#")[0].strip() for line in commands] == [
        "pip install -e . && python main.py",
        'pip install -e ".[dev]" && pytest',
    ]
    assert 'pip install -e ".[dev]"' in (ROOT / ".ci/run").read_text("utf-8")
