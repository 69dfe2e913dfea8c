"""main.py as a user runs it: the main job in a process of its own, everything else in this one."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from absl.testing import flagsaver
from support.runs import TINY, run_main, start_main

import main
from keras_efficientnet import config, datasets, export
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.config import GROUPS, TrainConfig
from keras_efficientnet.recipes import MEANINGS, RECIPES, make_config
from keras_efficientnet.training.devices import make_strategy
from keras_efficientnet.training.progress import describe_devices, log_evaluation

SAMPLE = Path(datasets.__file__).parents[1] / "data/sample"
SMALL = TINY | {
    "depth_coefficient": 0.3,
    "train_batch_size": 16,
    "train_steps": 10,
    "steps_per_eval": 5,
    "checkpoint_steps": 5,
}


def run_process(folder, **options):
    """Runs main.py in a process of its own and returns its exit status and all that it prints."""
    log = folder.parent / "log"
    status = start_main(log, model_dir=folder, **options).wait()
    return status, log.read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small network, trained, evaluated and exported: the run folder, and what main.py prints."""
    folder = tmp_path_factory.mktemp("main") / "run"
    status, output = run_process(folder, **SMALL)
    assert status == 0, output
    return folder, output


def test_main_job_writes_everything_it_promises(finished):
    folder, _ = finished
    written = " ".join(sorted(path.name for path in folder.iterdir()))
    assert written == (
        "archive checkpoints config.json curve.png evaluation labels.txt log.jsonl model.keras model.tflite "
        "results.json saved_model tensorboard"
    )
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] == 10 and results["seconds"] > 0
    for name in ("model", "saved_model", "tflite"):
        assert {"top_1_accuracy", "top_5_accuracy", "bytes"} <= set(results[name])
        assert results[name]["images"] == 355
    assert results["saved_model"]["agreement"] == results["tflite"]["agreement"] == 1.0
    assert results["tflite"]["bytes"] == (folder / "model.tflite").stat().st_size


def test_main_job_ends_with_a_table(finished):
    _, output = finished
    lines = output.split("\nFiles in ")[0].splitlines()
    assert [line.split()[0] for line in lines[-4:-1]] == ["model", "saved_model", "tflite"]
    assert "10 steps" in lines[-1]


def test_the_screen_shows_our_own_lines_only(finished):
    """Everything between the first line and the last, apart from the one progress bar."""
    folder, output = finished
    lines = [line.strip() for line in re.split(r"[\r\n]+", output) if line.strip() and "%|" not in line]
    row = r"(model|saved_model|tflite) .*"
    evaluation = r"step \d+: top-1 [\d.]+%, top-5 [\d.]+%, loss [\d.]+; best top-1 so far [\d.]+% at step \d+"
    expected = (
        r"network +efficientnet-b0, [\d,]+ parameters, 10 classes, images of 32 x 32 pixels",
        r"data +sample, 1,442 images to train on, 355 images to evaluate on",
        r"devices +1 (CPU|GPU)",
        r"length +10 steps of 16 images, 0.1 epochs",
        rf"folder +{folder}/",
        *[evaluation] * 2,
        r"exporting model.keras, saved_model, model.tflite, and comparing them with the network",
        r"top-1 +top-5 +ECE +agrees +MB",
        *[row] * 3,
        r"10 steps, \d+ s of training; best top-1 .*",
        rf"Files in {folder}/",
        *[r"[\w.]+/? {2,}\w.*"] * len([path for path in folder.iterdir() if not path.name.startswith(".")]),
    )
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_the_progress_bar_says_what_the_first_steps_wait_for(finished):
    bars = [line for line in re.split(r"[\r\n]+", finished[1]) if "%|" in line]
    assert bars[0].startswith("building the graph, which takes a minute:   0%|")
    assert len({bar.split(":")[0].strip() for bar in bars}) == 2 and bars[-1].startswith("training: 100%|")


@pytest.mark.parametrize("replicas, described", [(1, "1 CPU"), (2, "2 CPUs")])
def test_the_devices_are_counted(replicas, described):
    """On the two logical CPUs of the tests."""
    assert describe_devices(make_strategy(make_config(num_replicas=replicas))) == described


ROW = {"top_1_accuracy": 0.5, "top_5_accuracy": 1.0, "loss": 0.25, "expected_calibration_error": 0.125, "images": 8}


def test_the_table_of_an_evaluation_has_no_empty_columns():
    table = main.to_table({"model": ROW, "classes": 10, "steps": 3, "seconds": 60.0}, trained=False)
    assert table.splitlines() == [
        "                top-1    top-5      ECE",
        "model          50.00%  100.00%   12.50%",
        "8 images, with the checkpoint of step 3",
    ]


@pytest.mark.parametrize("classes, has_top_5", [(2, False), (5, False), (6, True)])
def test_top_5_is_shown_for_more_than_five_classes(classes, has_top_5, caplog):
    table = main.to_table({"model": ROW, "classes": classes, "steps": 3, "seconds": 60.0})
    with caplog.at_level("INFO", logger="keras_efficientnet"):
        log_evaluation([{"step": 3} | ROW], classes)
    assert ("top-5" in table) == ("top-5" in caplog.text) == has_top_5


def test_log_contains_losses_and_evaluations(finished):
    folder, _ = finished
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["part"] == "validation"]
    assert [row["step"] for row in evaluations] == [5, 10]
    trained = [row for row in rows if row["part"] == "train"]
    assert trained[-1]["epoch"] == pytest.approx(10 * 16 / 1442)
    assert all(row["images_per_second"] > 0 and np.isfinite(row["loss"]) for row in trained)


def test_exported_files_agree_with_the_model(finished):
    folder, _ = finished
    images = np.random.RandomState(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    model = keras.saving.load_model(folder / "model.keras")
    expected = model.predict(images, verbose=0)
    for path, load in (("saved_model", export.load_saved_model), ("model.tflite", export.load_tflite)):
        np.testing.assert_allclose(load(str(folder / path))(images), expected, atol=1e-5)
    assert (folder / "saved_model/assets/labels.txt").read_text().split() == list("0123456789")


def test_finished_run_is_not_trained_again(finished):
    folder, _ = finished
    before = json.loads((folder / "results.json").read_text())
    again = run_main(model_dir=folder, **SMALL, export=False)
    after = json.loads((folder / "results.json").read_text())
    assert again.status == 0, again.err
    assert "length   10 steps of 16 images, 0.1 epochs; 10 steps are done\n" in again.out
    assert after["seconds"] == before["seconds"]
    assert after["model"]["top_1_accuracy"] == before["model"]["top_1_accuracy"]


def cut_off(folder):
    """Copies the sample data, with the end of one file missing."""
    shutil.copytree(SAMPLE, folder)
    path = folder / "train-00002-of-00004"
    path.write_bytes(path.read_bytes()[:100_000])
    return {"data_dir": folder}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model_name": "b9"}, "Unknown model 'b9'. Choose one of: efficientnet-b0, "),
        ({"data_dir": "/nowhere"}, "No files train-* in '/nowhere'. There is no such folder"),
        ({"train_batch_size": 0}, "`train_batch_size` must be at least 1. Received: train_batch_size=0"),
        (
            cut_off,
            "train-00002-of-00004 is cut off, or is not a TFRecord file: it ends at byte 100000, within record 246",
        ),
        ({"data_dir": SAMPLE, "num_label_classes": 10, "model_name": "efficientnet-b9"}, "Unknown model"),
    ],
    ids=["model", "folder", "batch", "cut_off", "model_with_data"],
)
def test_a_user_error_is_one_line_and_writes_nothing(tmp_path, options, message):
    options = options(tmp_path / "data") if callable(options) else options
    done = run_main(model_dir=tmp_path / "run", **SMALL | options)
    assert done.status == 1
    assert message in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].endswith(" (--verbosity=1 shows where)")
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_main_job_is_as_accurate_as_a_nearest_neighbour_classifier(tmp_path):
    """98.5 % of the held-out digits, in 4 minutes of training on 2 cores."""
    assert run_process(tmp_path / "run")[0] == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["seconds"] <= 240
    for name in ("model", "saved_model", "tflite"):
        assert results[name]["top_1_accuracy"] >= 0.985
    assert min(results[name]["agreement"] for name in ("saved_model", "tflite")) >= 0.995


@pytest.mark.slow
def test_condconv_runs_several_calls_of_the_device(tmp_path):
    """TensorFlow's memory optimizer once left behind a variable of the first call, and the second call failed."""
    options = {"recipe": "sample", "model_name": "efficientnet-condconv-b0-4e", "train_batch_size": 4}
    status, output = run_process(tmp_path / "run", **options, train_steps=3, iterations_per_loop=1)
    assert status == 0, output
    assert json.loads((tmp_path / "run/results.json").read_text())["steps"] == 3


@pytest.mark.slow
def test_a_label_outside_the_classes_is_one_line(tmp_path):
    """In a process of its own: the error is TensorFlow's, which also logs."""
    data = tmp_path / "data"
    shutil.copytree(SAMPLE, data, ignore=shutil.ignore_patterns("labels.txt"))
    options = SMALL | {"num_label_classes": 9, "data_dir": data, "recipe": "sample"}
    status, output = run_process(tmp_path / "run", **options)
    assert status == 1
    assert "has label 10; for 9 classes it must be 1 to 9" in output.splitlines()[-1]
    assert "Traceback" not in output and len(output.splitlines()[-1]) < 300
    assert not (tmp_path / "run").exists()


def show(capsys, *arguments):
    """Returns what main.py prints for flags after which it ends."""
    with pytest.raises(SystemExit) as exit, flagsaver.flagsaver():
        main.parse_flags(["main.py", *arguments])
    assert not exit.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h", "--help=True", "--helpshort"])
def test_help_groups_the_options_in_the_order_of_their_definition(flag, capsys):
    text = show(capsys, flag)
    assert "python main.py --data_dir=gs://" in text
    names = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    assert names == [field.name for field in dataclasses.fields(TrainConfig)]
    groups = re.findall(r"^(The \w+):\n  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    assert {first: group for group, first in groups} == GROUPS and list(GROUPS) == [first for _, first in groups]
    comments = re.findall(r"^    # (the \w+)$", Path(config.__file__).read_text("utf-8"), re.MULTILINE)
    assert comments == [group.lower() for group in GROUPS.values()]
    assert max(map(len, text.splitlines())) <= 120


def test_help_names_the_recipes_with_a_line_each_and_the_networks(capsys):
    text = show(capsys, "--help")
    recipes = text.split("Recipes, for --recipe:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in recipes] == [*RECIPES] == [*MEANINGS]
    assert all(len(line.split()) > 4 for line in recipes)
    networks = re.split(r"[\s,]+", text.split("Networks, for --model_name:")[1].split("\n\n")[0].strip())
    assert networks == [*VARIANTS]


@pytest.mark.parametrize("flags", [["--model_name=help"], ["--model_name", "help"]])
def test_the_networks_are_listed_with_their_sizes(flags, capsys):
    """B0 as in Tan & Le 2019, table 2: 5.3 million parameters, 0.39 billion multiply-adds."""
    header, *rows = show(capsys, *flags).splitlines()
    assert [row.split()[0] for row in rows] == [*VARIANTS]
    assert rows[0].split() == ["efficientnet-b0", "5,288,548", "0.39", "G", "224", "76.9%"]


def test_every_official_flag_is_there_or_explained(golden):
    """Against the list of the official main.py. The documentation has each removed flag, with the reason."""
    ours = {field.name for field in dataclasses.fields(TrainConfig)}
    official = set(golden("official_flags")["flags"])
    assert official - ours == set(main.REMOVED_FLAGS)
    root = Path(main.__file__).parent
    documentation = "".join(path.read_text("utf-8") for path in [root / "README.md", *root.glob("docs/*.md")])
    for name, reason in main.REMOVED_FLAGS.items():
        assert f"`--{name}`" in documentation and reason in documentation


@pytest.mark.parametrize("flag", ["--use_bfloat16", "--nouse_bfloat16", "--use_bfloat16=false"])
def test_a_removed_official_flag_is_explained_in_one_line(flag):
    with pytest.raises(SystemExit) as exit:
        main.parse_flags(["main.py", flag])
    expected = "main.py: there is no --use_bfloat16 here: --precision=bfloat16, which is the default on a TPU."
    assert exit.value.code == expected


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--optimizer=adam", "value should be one of <rmsprop|"),
        ("--trian_steps=3", "Unknown flag --trian_steps. Did you mean: train_steps?"),
        ("--train-steps=3", "Did you mean: train_steps"),
        ("--batch_size=3", "Did you mean: eval_batch_size, train_batch_size?"),
        ("--learning_rate=3", "Did you mean: base_learning_rate?"),
        ("--epochs=3", "Did you mean: train_epochs, "),
        ("--nouse_cash", "Did you mean: use_cache?"),
        ("--xyzzy", "Unknown flag --xyzzy. --help"),
    ],
)
def test_a_flag_error_is_one_line(flag, message):
    with pytest.raises(SystemExit) as exit:
        main.parse_flags(["main.py", flag])
    assert exit.value.code.startswith("main.py: ") and message in exit.value.code
    assert exit.value.code.endswith("--help lists the flags.") and "\n" not in exit.value.code
