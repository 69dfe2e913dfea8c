"""Data that changed under a run: other class names are refused wherever data meet the run, moved data are reported."""

import logging
import shutil

import keras
import pytest
from support.images import write_folder
from support.runs import SMALL, checkpoint_names

from keras_efficientnet import export, training
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.devices import make_strategy
from keras_efficientnet.training.eval_mode import evaluate_checkpoints
from keras_efficientnet.training.state import TrainState, make_variant

pytestmark = pytest.mark.usefixtures("short_network")

OPTIONS = SMALL | {"dataset": "folder", "train_steps": 1, "train_batch_size": 4, "mode": "train"}
REFUSED = "must have the classes that the run in .* was trained on. "


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Images of the classes cat and dog."""
    return write_folder(tmp_path_factory.mktemp("changed") / "animals", ("cat", "dog"), 10)


@pytest.fixture
def run(animals, tmp_path):
    """The files that a run on `animals` leaves, with a checkpoint that is never read."""
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "ckpt-1.index").touch()
    run.write_labels(["cat", "dog"])
    run.write_options(OPTIONS | {"data_dir": str(animals), "num_label_classes": 2, "num_train_images": 18})
    return run


def content(run):
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def with_classes(folder, *names):
    return write_folder(folder / "-".join(names), names, 10)


def start(run, data, **options):
    """Starts a mode on a run with some data."""
    config = make_config(**OPTIONS | {"model_dir": str(run.path), "data_dir": str(data)} | options)
    return training.preview(config) if config.mode == "preview" else training.run(config)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "train"},
        {"mode": "train_and_eval"},
        {"mode": "eval"},
        {"mode": "eval", "eval_timeout": 1.0},
        {"mode": "preview"},
    ],
    ids=str,
)
def test_other_classes_are_refused_and_nothing_of_the_run_changes(run, tmp_path, options):
    before = content(run)
    with pytest.raises(
        ValueError, match=f"{REFUSED}Only the run has: 'cat', 'dog'. Only the data have: 'apple', 'pear'"
    ):
        start(run, with_classes(tmp_path, "apple", "pear"), **options)
    assert content(run) == before


@pytest.mark.parametrize("names", [("cat", "zebra"), ("Cat", "dog"), ("cat", "dog ")])
def test_a_renamed_class_is_refused_in_the_same_folder(run, tmp_path, names):
    data = with_classes(tmp_path, *names)
    run.write_options(run.read_options() | {"data_dir": str(data)})
    with pytest.raises(ValueError, match=REFUSED):
        start(run, data, mode="eval")


def test_an_added_class_is_named_not_only_counted(run, tmp_path):
    with pytest.raises(ValueError, match="Only the run has: -. Only the data have: 'bird'."):
        start(run, with_classes(tmp_path, "bird", "cat", "dog"))


def test_records_in_another_order_are_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.write_labels(["cat", "dog", "fox"])
    with pytest.raises(ValueError, match="The order differs: class 1 is 'dog' in the run, and 'fox' in the data"):
        run.check_classes(["cat", "fox", "dog"])


def test_long_lists_of_classes_are_cut(tmp_path):
    run = RunFolder(tmp_path)
    run.write_labels([f"class {number}" for number in range(1000)])
    with pytest.raises(ValueError, match="'class 4' and 995 more") as info:
        run.check_classes([f"n{number}" for number in range(1000)])
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("trained, received", [(None, ["a", "b"]), (["a", "b"], None), (["ä", "b"], ["ä", "b"])])
def test_equal_and_unknown_class_names_pass(tmp_path, caplog, trained, received):
    run = RunFolder(tmp_path)
    if trained:
        run.write_labels(trained)
    run.check_classes(received)
    warns = bool(trained and not received)
    assert ("has class names (labels.txt), the data have none" in caplog.text) == warns == bool(caplog.records)


@pytest.mark.parametrize(
    "trained, received, message",
    [
        ("crane crane dog", "crane dog", "The run has 3 classes, the data 2. Give the data"),
        ("crane dog", "crane dog dog", "The run has 2 classes, the data 3. Give the data"),
        (
            "crane dog",
            "crane dog fox",
            "The run has 2 classes, the data 3. Only the run has: -. Only the data have: 'f",
        ),
        ("crane crane dog", "crane dog crane", "class 1 is 'crane' in the run, and 'dog' in the data"),
        ("crane crane dog", "crane dog dog", "class 1 is 'crane' in the run, and 'dog' in the data"),
    ],
)
def test_names_that_occur_twice_are_compared(tmp_path, trained, received, message):
    """ImageNet has two classes called crane."""
    run = RunFolder(tmp_path)
    run.write_labels(trained.split())
    with pytest.raises(ValueError, match=message):
        run.check_classes(received.split())


def test_classes_of_a_run_without_checkpoints_do_not_matter(tmp_path):
    """Its checkpoints were removed to start again, or it was killed before the first one."""
    run = RunFolder(tmp_path)
    run.write_labels(["cat", "dog"])
    run.check_data(["apple", "pear"], "elsewhere")


def test_moved_data_are_reported(run, animals, tmp_path, caplog):
    run.check_data(["cat", "dog"], "gs://bucket/animals")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"was trained with data_dir={animals}. Received: data_dir=gs://bucket/animals" in record.message


@pytest.mark.parametrize("spelling", ["{}/", "{}/../animals", "link"])
def test_another_spelling_of_the_same_folder_is_not_reported(run, animals, tmp_path, caplog, spelling):
    (tmp_path / "link").symlink_to(animals)
    folder = str(tmp_path / "link") if spelling == "link" else spelling.format(animals)
    run.check_data(["cat", "dog"], folder)
    assert not caplog.records


@pytest.mark.parametrize("given", [True, False])
def test_exports_are_not_measured_on_other_classes(run, animals, tmp_path, given):
    """Neither on images that are given, nor on the data of the run after a class was renamed."""
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    data = with_classes(tmp_path, "cat", "zebra")
    if not given:
        run.write_options(run.read_options() | {"data_dir": str(data)})
    with pytest.raises(ValueError, match=f"{REFUSED}Only the run has: 'dog'. Only the data have: 'zebra'."):
        export.load_images(model, run.path, str(data) if given else None)
    assert len(export.load_images(model, run.path, str(animals)).labels) == 2


def make_network():
    outputs = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((32, 32, 3)), *outputs])


def test_a_model_beside_its_class_names_is_not_measured_on_other_classes(animals, tmp_path):
    """The folder has no options: model.keras and labels.txt were copied alone."""
    RunFolder(tmp_path).write_labels(["dog", "cat"])
    make_network().save(tmp_path / "model.keras")
    for source in (tmp_path, tmp_path / "model.keras"):
        with pytest.raises(ValueError, match="The order differs: class 0 is 'dog' in the run, and 'cat' in the data"):
            export.export_file(source, tmp_path / "new", "saved_model", images=str(animals), image_count=2)


def test_class_names_given_to_an_export_are_those_of_the_images(animals, tmp_path):
    make_network().save(tmp_path / "small.keras")
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    given = {"labels": str(tmp_path / "names.txt"), "image_count": 2}
    with pytest.raises(ValueError, match="The order differs: class 0 is 'dog' in the file, and 'cat' in the data"):
        export.export_file(tmp_path / "small.keras", tmp_path / "new", "saved_model", images=str(animals), **given)
    assert export.load_images(make_network(), None, f"{animals}/*/*", count=2).class_names is None  # as the error says


@pytest.mark.slow
def test_a_run_resumes_on_moved_data_and_is_not_evaluated_on_other_classes(animals, tmp_path, caplog):
    run = RunFolder(tmp_path / "run")
    moved = shutil.copytree(animals, tmp_path / "moved")
    start(run, animals)
    start(run, moved, train_steps=2)
    assert "was trained with data_dir" in caplog.text
    assert checkpoint_names(run.path) == ["ckpt-1.index", "ckpt-2.index"]
    assert run.read_options()["data_dir"] == str(moved)

    config = make_config(mode="eval", model_dir=str(run.path))
    strategy, data = make_strategy(config), make_datasets(config, make_variant(config))
    state = TrainState(config, make_variant(config), 18, strategy)
    run.write_labels(["apple", "pear"])  # by another process, which trains a new run there
    with pytest.raises(ValueError, match=REFUSED):
        evaluate_checkpoints(state, data)
