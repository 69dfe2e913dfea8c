"""The house of DESIGN and STYLE: imports only go down, files and functions stay small, public names are listed."""

import ast
import collections
import importlib
import re
from pathlib import Path

import pytest

import keras_efficientnet
from keras_efficientnet import runs

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_efficientnet"
FLOORS = (
    {
        "architectures",
        "augmentation",
        "cluster",
        "config",
        "console",
        "cpu",
        "decoding",
        "import_hook",
        "labels",
        "layers",
    }
    | {"paths"},
    {"locks"},
    {"files"},
    {"checkpoint_folder", "optimizers", "preprocessing"},
    {"blocks", "datasets", "evaluation", "profiling", "runs", "runtimes"},
    {"recipes"},
    {"weights"},
    {"models", "preflight"},
    {"export"},
    {"training"},
    {"benchmark"},
)
ROOMS = {  # floors inside each wing
    "augmentation": ({"operations", "erasing"}, {"policies", "mixing"}),
    "benchmark": ({"candidates", "latencies"}, {"tasks"}, {"comparison"}),
    "datasets": (
        {"sources", "service", "transfer"},
        {"catalog", "class_folders", "damage", "records"},
        {"pipeline", "shards", "splits"},
        {"factory"},
    ),
    "evaluation": ({"metrics", "predictions"}, {"reports"}),
    "export": (
        {"agreement", "flatbuffer", "npm", "pixels", "preparation"},
        {"folding", "images", "metadata", "quantization", "signatures"},
        {"onnx", "openvino", "saved_model", "tflite"},
        {"formats", "web", "weight_files"},
        {"measurement"},
        {"workflow"},
    ),
    "runtimes": ({"networks"}, {"worker"}, {"timing"}),
    "training": (
        {"devices", "history"},
        {"preemption", "state"},
        {"steps", "artifacts", "preview_mode", "predict_mode", "progress"},
        {"eval_mode"},
        {"loop"},
    ),
    "weights": (
        {"downloads", "pairing", "readers"},
        {"fitting", "pretrained"},
        {"engine"},
        {"origins"},
        {"registry"},
        {"loading"},
    ),
}
PUBLIC_UNDERSCORES = {"_asdict", "_exit", "_replace", "_fields"}  # of NamedTuple and os
PRIVATE_NAMES: dict[str, set[str]] = {  # module -> private names of other libraries that have no public counterpart
    "keras_efficientnet/export/folding": {"_inbound_nodes", "_outbound_nodes"},  # calls of a layer
    "keras_efficientnet/optimizers": {"_get_variable_index"},  # as Keras's own optimizers: a step fails without it
    "keras_efficientnet/training/state": {"_all_reduce_sum_gradients"},  # the step sums gradients itself, to clip them
}
ALLOWED_RUN_NAMES = {
    ("config.json", "config.json"),  # also in a .keras file
    ("labels.txt", "labels.txt"),  # also in a SavedModel, in a TFLite file and on the web page
    ("model.tflite", "model.tflite"),  # also on the web page
}
ROOF = [ROOT / "main.py", *sorted((ROOT / "export").glob("*.py"))]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
EVERYTHING = [*MODULES, PACKAGE / "__init__.py", *ROOF, ROOT / "setup.py", *sorted((ROOT / "tests").rglob("*.py"))]
TEST_MODULES = sorted((ROOT / "tests").glob("test_*.py"))


def name_of(path):
    return str(path.relative_to(ROOT).with_suffix(""))


def room_of(path):
    """The module or folder of a wing that a file belongs to."""
    return path.relative_to(PACKAGE).parts[1].removesuffix(".py")


def house_name(path):
    """The module of a file, or of the folder that the module has become."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(path):
    """The modules of the package that a file imports, anywhere in it."""
    yield from (parts[0] for parts in imported_parts(path))


def imported_parts(path):
    """As `imported`, as parts of the dotted name below the package: ["weights", "engine"]."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "keras_efficientnet":
            inner = node.module.split(".")[1:]
            yield from ([*inner, alias.name] for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1:] for n in node.names if n.name.startswith("keras_efficientnet."))


def functions(path):
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_every_module_has_a_floor():
    assert {house_name(path) for path in MODULES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down(path):
    own = house_name(path)
    above = [name for name in imported(path) if name != own and floor(name) >= floor(own)]
    assert not above, f"{own} imports {above}, which are not below it"


@pytest.mark.parametrize("wing", ROOMS)
def test_every_module_of_a_wing_has_a_floor(wing):
    modules = {room_of(path) for path in (PACKAGE / wing).rglob("*.py")} - {"__init__"}
    assert modules == set().union(*ROOMS[wing])


@pytest.mark.parametrize("path", [path for path in MODULES if house_name(path) in ROOMS], ids=name_of)
def test_imports_inside_a_wing_only_go_down(path):
    wing, own = house_name(path), room_of(path)
    floors = {room: number for number, rooms in enumerate(ROOMS[wing]) for room in rooms}
    inner = {parts[1] for parts in imported_parts(path) if parts[0] == wing and len(parts) > 1}
    above = [room for room in inner if own != "__init__" and room != own and floors[room] >= floors[own]]
    assert not above, f"{wing}/{own} imports {above}, which are not below it"


def test_every_wing_has_rooms_with_floors():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)


ENDINGS = ("ations", "ation", "ating", "ators", "ator", "ings", "ing", "ions", "ion", "ers", "er", "es", "s", "e")


def stem(name):
    """The part that related words share: evaluation, evaluating and evaluator have one stem."""
    ending = next((each for each in ENDINGS if name.endswith(each) and len(name) - len(each) >= 3), "")
    return name.removesuffix(ending)[:6]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("evaluation", "evaluating"),
        ("predictions", "predicting"),
        ("conversion", "converting"),
        ("models", "model"),
        ("reports", "reporting"),
        ("writing", "writers"),
    ],
)
def test_related_words_have_one_stem(one, other):
    assert stem(one) == stem(other)


def test_no_two_modules_share_a_stem():
    names = [path.stem if path.stem != "__init__" else path.parent.name for path in MODULES]
    stems = collections.defaultdict(list)
    for name in names:
        stems[name if "_" in name else stem(name)].append(name)
    assert not [group for group in stems.values() if len(group) > 1]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=name_of)
def test_an_init_file_only_reexports(path):
    for node in ast.parse(path.read_text("utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_list = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_docstring or is_list or isinstance(node, ast.ImportFrom), ast.unparse(node)


@pytest.mark.parametrize("path", [*MODULES, *ROOF], ids=name_of)
def test_no_module_holds_state_that_changes(path):
    """Names of a module are constants, tables in capitals, types, or made once from a table: never assigned again."""
    tree = ast.parse(path.read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for name in (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)):
            mutable = isinstance(node.value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))
            assert name.lstrip("_").isupper() or name == "__all__" or not mutable, name
            assert not (name.lstrip("_").islower() and isinstance(node.value, ast.Constant)) or name == "__version__", (
                name
            )


def run_file_names():
    """What RunFolder calls its files."""
    folder = runs.RunFolder("run")
    names = {value.name for value in vars(folder).values() if isinstance(value, Path)} - {"run"}
    assert {"config.json", "labels.txt", "model.keras", "checkpoints", "best_eval.json", "log.jsonl"} <= names
    return names - {"evaluation"}  # also the name of a wing


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "runs.py"], ids=name_of)
def test_only_runs_knows_the_names_of_run_files(path):
    tree = ast.parse(path.read_text("utf-8"))
    skipped = docstrings(tree) | help_texts(tree)
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    texts = [node.value for node in constants if node not in skipped]
    pattern = re.compile(rf"(^|[/ `'\"])({'|'.join(map(re.escape, run_file_names()))})($|[/ `'\",.])")
    words = {
        "checkpoints",
        "saved_model",
        "archive",
        "tensorboard",
    }  # words of their own, too, in a sentence or a table
    found = [(m[2], text) for text in texts for m in pattern.finditer(text) if m[2] not in words or "/" in text]
    assert not [pair for pair in found if pair not in ALLOWED_RUN_NAMES]


def docstrings(tree):
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    first = [node.body[0].value for node in nodes if node.body and isinstance(node.body[0], ast.Expr)]
    return {value for value in first if isinstance(value, ast.Constant)}


def help_texts(tree):
    """The words of main.py's flags, which name the files that a user sees."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "option"]
    return {text for call in calls for text in ast.walk(call) if isinstance(text, ast.Constant)}


@pytest.mark.parametrize("path", [*MODULES, *ROOF], ids=name_of)
def test_public_functions_are_typed(path):
    untyped = []

    def visit(body):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
                free = [each for each in arguments if each.arg not in ("self", "cls") and each.annotation is None]
                if free or node.returns is None:
                    untyped.append(node.name)

    visit(ast.parse(path.read_text("utf-8")).body)
    assert not untyped


@pytest.mark.parametrize("path", [*MODULES, *ROOF], ids=name_of)
def test_private_names_of_other_libraries_are_listed(path):
    tree = ast.parse(path.read_text("utf-8"))
    assigned = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
    own = {node.id for node in assigned if isinstance(node, ast.Name)}
    own |= {n.attr for n in assigned if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and re.match("_[a-z]", n.attr)} - own
    assert used - PUBLIC_UNDERSCORES <= PRIVATE_NAMES.get(name_of(path), set())


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_no_tuple_is_splatted_to_please_the_formatter(path):
    starred = [node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Starred)]
    assert not [ast.unparse(node) for node in starred if isinstance(node, (ast.Tuple, ast.List))]


@pytest.mark.parametrize("path", TEST_MODULES, ids=name_of)
def test_no_test_module_imports_from_another(path):
    """Shared helpers are in tests/support."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in modules if name.split(".")[-1].startswith("test_")]


@pytest.mark.parametrize("path", sorted((ROOT / "tests/support").glob("*.py")), ids=name_of)
def test_shared_helpers_say_what_they_do(path):
    tree = ast.parse(path.read_text("utf-8"))
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    assert ast.get_docstring(tree)
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_files_and_functions_stay_small(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400
    most = 80 if path.is_relative_to(ROOT / "tests") else 50
    long = [node.name for node in functions(path) if node.end_lineno - node.lineno + 1 > most]
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_roof_prints_exits_and_reads_flags(path):
    tree = ast.parse(path.read_text("utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"print", "exit", "sys.exit", "input"}
    assert "absl" not in path.read_text("utf-8") and "argv" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
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
    functions += ["load_weights", "preprocess_input", "profile", "tune_cpu"]
    assert sorted(keras_efficientnet.__all__) == sorted(builders + functions)
    for name in keras_efficientnet.__all__:
        assert getattr(keras_efficientnet, name).__doc__
