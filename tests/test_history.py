"""The log of a run, its scalars for TensorBoard, and the training curve."""

import json
import math
import resource

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_efficientnet.files import write_json
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.history import History, draw_curve, plot, read_rows

ROW = {"loss": 0.5, "learning_rate": 0.1}
SCORES = {"loss": 0.4, "top_1_accuracy": 0.75, "top_5_accuracy": 1.0}


def test_rows_that_a_crash_undid_are_removed(tmp_path):
    history = History(RunFolder(tmp_path), 0)
    for step in (1, 2, 3):
        history.write("train", step, ROW)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"part": "train", "st')  # cut off in mid-write
    resumed = History(RunFolder(tmp_path), 2)
    resumed.write("train", 3, ROW | {"loss": 0.25})
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path / "log.jsonl")] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_the_log_of_a_separate_evaluation_keeps_every_row(tmp_path):
    History(RunFolder(tmp_path), 0).write("train", 1, ROW)
    History(RunFolder(tmp_path), None, log=RunFolder(tmp_path).evaluations).write("validation", 7, SCORES)
    history = History(RunFolder(tmp_path), None, log=RunFolder(tmp_path).evaluations)
    history.write("validation", 9, SCORES)
    expected = [{"part": "validation", "step": step} | SCORES for step in (7, 9)]
    assert history.rows("validation") == read_rows(tmp_path / "evaluations.jsonl") == expected
    assert history.rows("train") == []
    assert [row["step"] for row in read_rows(tmp_path / "log.jsonl")] == [1]


BROKEN = {
    "a blank line": b"",
    "zeros": bytes(50),
    "cut off": b'{"part": "train", "st',
    "bytes": b"\xff\xfe\x00",
    "no object": b"17",
    "no step": b'{"part": "train", "loss": 1.0}',
    "no part": b'{"step": 2, "loss": 1.0}',
    "no loss": b'{"part": "train", "step": 2}',
    "no accuracy": b'{"part": "validation", "step": 2, "loss": 1.0}',
    "a word for a number": b'{"part": "train", "step": 2, "loss": "high"}',
    "a number with a dot": b'{"part": "train", "step": 2.5, "loss": 1.0}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_reported_and_left_out(tmp_path, line, caplog):
    history, log = History(RunFolder(tmp_path), 0), tmp_path / "log.jsonl"
    for step in (1, 3):
        history.write("train", step, ROW)
    first, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + line + b"\n" + last)
    resumed = History(RunFolder(tmp_path), 3)
    assert f"{log}, line 2: not a row of the log" in caplog.text
    assert [row["step"] for row in resumed.rows("train")] == [1, 3] and log.read_bytes() == first + last
    plot(RunFolder(tmp_path))
    caplog.clear()
    log.write_bytes(first + last + line)
    assert [row["step"] for row in read_rows(log)] == [1, 3] and not caplog.text  # a crash cut the last line off


def test_rows_beside_zeros_and_without_a_last_line_break_are_kept(tmp_path, caplog):
    """A crash of the system leaves zeros at the end of a file; an editor may remove the last line break."""
    row = b'{"part": "train", "step": %d, "loss": 1.0}'
    (tmp_path / "log").write_bytes(row % 1 + b"\r\n" + bytes(99) + row % 2 + b"\n" + row % 3)
    assert [each["step"] for each in read_rows(tmp_path / "log")] == [1, 2, 3] and not caplog.text
    (tmp_path / "log").write_bytes(b"\n" * 9)
    assert read_rows(tmp_path / "log") == [] and "log, line 1, 2, 3, 4, 5, ...: not a row" in caplog.text


def test_a_row_is_written_once(tmp_path):
    History(RunFolder(tmp_path), 0).write("validation", 7, SCORES)
    History(RunFolder(tmp_path), 7).write("validation", 7, SCORES)
    assert len(read_rows(tmp_path / "log.jsonl")) == 1


def test_tensorboard_gets_the_scalars(tmp_path):
    history = History(RunFolder(tmp_path), 0)
    history.write("train", 5, ROW)
    history.write("validation", 5, SCORES)
    for part, expected in (("train", ROW), ("validation", SCORES)):
        events = EventAccumulator(str(tmp_path / "tensorboard" / part), size_guidance={"tensors": 0})
        events.Reload()
        assert set(events.Tags()["tensors"]) == set(expected)
        event = events.Tensors("loss")[0]
        assert event.step == 5 and tf.make_ndarray(event.tensor_proto) == pytest.approx(expected["loss"])


def test_curve_can_have_a_single_point(tmp_path):
    history = History(RunFolder(tmp_path), 0)
    history.write("validation", 5, SCORES)
    plot(RunFolder(tmp_path))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def make_rows(first_loss):
    """A run of 900 steps like that of the digits: the first averaged weights are almost random."""
    train = [{"part": "train", "step": 10 * i, "loss": 4.8 - i / 20, "learning_rate": i / 1000} for i in range(1, 90)]
    scores = [(300, first_loss, 0.4), (600, 0.2, 0.75), (900, 0.3, 0.75)]
    return train + [
        {"part": "validation", "step": step, "loss": loss, "top_1_accuracy": top_1, "top_5_accuracy": 0.9}
        for step, loss, top_1 in scores
    ]


OPTIONS = {"model_name": "efficientnet-b0", "num_label_classes": 10, "moving_average_decay": 0.99}


@pytest.mark.parametrize(("first_loss", "scale"), [(1500.0, "log"), (2.3, "linear"), (math.inf, "linear")])
def test_losses_that_differ_much_are_drawn_logarithmically(first_loss, scale):
    assert draw_curve(make_rows(first_loss), OPTIONS).axes[0].get_yscale() == scale


def test_the_curve_has_a_title_readable_labels_the_best_point_and_the_learning_rate():
    figure = draw_curve(make_rows(2.3), OPTIONS | {"data_dir": "/data/flowers", "dataset": "folder"})
    assert figure.get_suptitle() == "efficientnet-b0 on flowers"
    loss, accuracy, rate = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    assert [line.get_label() for line in accuracy.lines] == ["top-1", "top-5", "best top-1: 75.00 % at step 600"]
    assert accuracy.lines[2].get_xydata().tolist() == [[600, 75]]
    assert [axes.get_title() for axes in figure.axes] == [
        "Loss",
        "Validation accuracy, averaged weights",
        "Learning rate",
    ]
    assert rate.lines[0].get_xydata()[-1].tolist() == [890, 0.089]


@pytest.mark.parametrize(
    ("options", "title", "labels"),
    [
        ({"num_label_classes": 2}, "efficientnet-b0 on sample", ["top-1"]),
        ({"num_label_classes": 5, "dataset": "cifar10"}, "efficientnet-b0 on cifar10", ["top-1"]),
        ({"data_dir": "imagenet/"}, "efficientnet-b0 on imagenet", ["top-1", "top-5"]),
    ],
)
def test_the_curve_names_what_the_run_was_about(options, title, labels):
    figure = draw_curve(make_rows(2.3), OPTIONS | options)
    assert figure.get_suptitle() == title
    assert [line.get_label() for line in figure.axes[1].lines][:-1] == labels


@pytest.mark.parametrize("limit", [0, 10])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, limit):
    """A limit on the size of files, `ulimit -f`, simulates the disk: the system's error has no name."""
    history = History(RunFolder(tmp_path), 0)
    history.write("train", 1, ROW)
    write_json(tmp_path / "a.json", {"a": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(OSError, match="File too large: .*/a.json'"):
            write_json(tmp_path / "a.json", {"a": 2, "b": 3})
        with pytest.raises(OSError, match="File too large: .*/log.jsonl'"):
            history.write("train", 2, ROW)
        if not limit:
            with pytest.raises(OSError, match="File too large: .*/.lock'"), RunFolder(tmp_path).lock():
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_json_file_is_replaced_completely_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
