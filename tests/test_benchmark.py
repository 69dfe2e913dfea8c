"""Latencies: order of the turns, processes and cores, statistics, the script."""

import csv
import json
import multiprocessing
import os
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT
from support.exports import make_small
from support.images import random_images
from support.scripts import run, run_help

from keras_efficientnet import export
from keras_efficientnet.benchmark import candidates, latencies, tasks
from keras_efficientnet.models import make_model
from keras_efficientnet.runtimes import networks, timing, worker
from keras_efficientnet.runtimes.timing import Candidate, Timing


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a small network in every format, and as `peer` converted plainly."""
    folder = tmp_path_factory.mktemp("files")
    options = {"formats": [*candidates.TIMED_FORMATS], "threads": [1]}
    candidates.write_candidates({"small": make_small}, folder, **options)
    candidates.write_candidates({"peer": make_small}, folder, plainly=True, **options)
    return folder


def make_candidates(files, *formats, model="small", threads=1):
    rows = [(name, candidates.TIMED_FORMATS[name]) for name in formats]
    return [Candidate(model, name, row.runtime, str(files / model / row.file), threads) for name, row in rows]


@pytest.mark.parametrize("name", candidates.TIMED_FORMATS)
@pytest.mark.parametrize("model", ["small", "peer"])
def test_every_format_gives_the_probabilities_of_the_network(files, model, name):
    images = random_images(1)
    [candidate] = make_candidates(files, name, model=model)
    found = networks.LOADERS[candidate.runtime](candidate.path)(images)
    expected = keras.saving.load_model(files / model / "plain.keras")(images, training=False)
    rounding = {"openvino": 1e-2, "tflite-float16": 1e-3, "tflite-dynamic": 1e-2, "tflite-int8": 5e-2}.get(name, 1e-5)
    np.testing.assert_allclose(found, expected, atol=rounding)


def test_files_take_turns_and_the_order_alternates(files):
    seen = []

    def watch(turns):
        for turn in turns:
            seen.append(turn)
            yield turn

    two = make_candidates(files, "tflite", "onnx")
    timings = timing.measure(two, rounds=3, calls=2, progress=watch)
    assert [timed.format for timed in timings] == ["tflite", "onnx"]
    assert [[len(calls) for calls in timed.rounds] for timed in timings] == [[2, 2, 2]] * 2
    assert all(0 < call < 1000 for timed in timings for calls in timed.rounds for call in calls)  # milliseconds
    turns = [place for what, place in seen if what == "time"]
    first, second, third = turns[:2], turns[2:4], turns[4:]
    assert sorted(first) == [0, 1] and second == first[::-1] and third == first


def test_a_process_uses_its_cores_only_and_loads_no_other_runtime(files):
    found = {}

    def watch(turns):
        for what, place in turns:
            if what == "time":
                processes = sorted(multiprocessing.active_children(), key=lambda process: process.pid)
                for process in processes:
                    libraries = Path(f"/proc/{process.pid}/maps").read_text()
                    found[process.pid] = (len(os.sched_getaffinity(process.pid)), "tensorflow" in libraries)
            yield what, place

    numbers = worker.default_threads()
    each = [candidate for threads in numbers for candidate in make_candidates(files, "onnx", threads=threads)]
    timing.measure(each, rounds=1, calls=1, progress=watch)
    assert [found[pid] for pid in sorted(found)] == [(threads, False) for threads in numbers]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tensorflow_uses_the_given_number_of_threads(files, run_python, threads):
    code = f"""
import tensorflow as tf
from keras_efficientnet.runtimes.networks import load_keras
load_keras({str(files / "small" / "plain.keras")!r}, {threads})
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads())
"""
    assert run_python(code).split() == [str(threads)] * 2


@pytest.mark.slow
def test_a_larger_network_takes_longer(files, tmp_path, tiny):
    export.to_tflite(make_model(tiny, classes=10, input_shape=(96, 96, 3)), tmp_path / "large.tflite")
    small, large = timing.measure(
        [*make_candidates(files, "tflite"), *candidates.find_candidates([str(tmp_path / "large.tflite")], [1])]
    )
    assert timing.ratio(large, small) > 2


# by hand: three rounds of three calls, the second on a machine that is ten times as slow
SLOWED = Timing("a", "onnx", 1, ((2.0, 2.0, 2.0), (20.0, 20.0, 20.0), (2.0, 2.0, 8.0)))
STEADY = Timing("b", "onnx", 1, ((1.0, 1.0, 1.0), (10.0, 10.0, 10.0), (1.0, 1.0, 1.0)))


def test_mean_and_quartiles_are_those_of_all_calls():
    assert SLOWED.mean == pytest.approx(78 / 9)
    assert SLOWED.quartiles == (2.0, 2.0, 20.0)
    assert Timing("a", "onnx", 1, ((3.0,),)).quartiles == (3.0, 3.0, 3.0)


def test_a_ratio_is_computed_round_by_round():
    assert timing.ratio(SLOWED, STEADY) == 2.0
    assert timing.ratio(STEADY, SLOWED) == 0.5


def test_ratios_are_within_a_format_or_to_one_format():
    other = STEADY._replace(model="a", format="tflite")
    wider = STEADY._replace(threads=2)
    timings = [SLOWED, STEADY, other, wider]
    assert timing.ratios(timings, "b") == {SLOWED: 2.0}
    assert timing.ratios(timings, "a", "tflite") == {SLOWED: 2.0, STEADY: 1.0}
    with pytest.raises(ValueError, match="There is no c to compare with. Known: .*'a:onnx', 'a:tflite', 'b:onnx'"):
        timing.ratios(timings, "c")


def test_a_file_that_does_not_run_is_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(RuntimeError, match=r"bad\.onnx does not run in onnx: "):
        timing.measure(candidates.find_candidates([str(tmp_path / "bad.onnx")], [1]))
    assert not multiprocessing.active_children()


def test_more_threads_than_cores_are_refused(files):
    with pytest.raises(ValueError, match=f"from 1 to {worker.count_cores()}, the cores of this machine"):
        timing.measure(make_candidates(files, "onnx", threads=1000))
    with pytest.raises(ValueError, match="nothing to time"):
        timing.measure([])


def test_files_are_recognized_by_their_endings(files):
    paths = [str(files / "small" / name) for name in ("float32.tflite", "model.onnx", "openvino/model.xml", "openvino")]
    paths += [str(files / "small" / "saved_model"), str(files / "small" / "plain.keras")]
    found = candidates.find_candidates(paths, [1])
    assert [(row.model, row.runtime) for row in found] == [
        (paths[0], "tflite"),
        (paths[1], "onnx"),
        (paths[2], "openvino"),
        (paths[2], "openvino-f32"),
        (paths[3], "openvino"),
        (paths[3], "openvino-f32"),
        (paths[4], "saved_model"),
        (paths[5], "keras"),
    ]
    with pytest.raises(FileNotFoundError, match=r"There is no file 'absent\.onnx'"):
        candidates.find_candidates(["absent.onnx"], [1])
    with pytest.raises(ValueError, match=r"cannot be timed. Give a file that ends in \.keras, "):
        candidates.find_candidates([str(ROOT / "setup.py")], [1])


def test_random_networks_with_fitted_statistics_distinguish_images(tiny_b0):
    keras.utils.set_random_seed(1)
    model = make_model(tiny_b0, classes=10)
    weights = model.get_layer("predictions").kernel
    weights.assign(weights * 100)
    images = random_images(8)
    before = np.std(model(images, training=False), axis=0).max()
    candidates.fit_statistics(model)
    assert np.std(model(images, training=False), axis=0).max() > 10 * before
    assert {layer.momentum for layer in model.layers if hasattr(layer, "momentum")} == {0.99}


def test_tasks_are_timed_as_tensorflow_comes_and_tuned():
    names = ["efficientnet-b0", "EfficientNetB0"]
    found = tasks.make_candidates(["training", "inference", "import"], names, threads=1)
    batches = ["training-32", "inference-1", "inference-8", "inference-32", "import"]
    formats = [name + ending for name in batches for ending in ("", "-tuned")][:-1]  # an import has nothing to tune
    assert [(one.format, one.model) for one in found] == [(name, model) for name in formats for model in names]
    assert all(one.tuned == one.format.endswith("-tuned") for one in found)
    with pytest.raises(ValueError, match="Unknown task 'trainin'. Choose from: training, inference"):
        tasks.check_tasks(["trainin"], [])
    with pytest.raises(ValueError, match=r"at least 1. Received: \[8, 0\]"):
        tasks.check_tasks(["inference"], [8, 0])
    [one, *_] = tasks.make_candidates(["inference"], names, batch_sizes=[4], threads=1)
    assert one.format == "inference-4"


@pytest.mark.slow
def test_every_task_is_timed_beside_that_of_a_peer(tmp_path):
    options = ["--models=efficientnet-b0", "--peers=EfficientNetB0", "--baseline=EfficientNetB0", "--threads=1"]
    options += ["--tasks=training,load,import", "--batch_sizes=2", "--rounds=1", "--calls=1"]
    code, lines, errors = run(ROOT / "export/benchmark.py", *options, cwd=tmp_path)
    assert (code, errors) == (0, [])
    rows = [line.split() for line in lines if line.startswith(("efficientnet", "EfficientNet"))]
    names = {"import", "load", "load-tuned", "training-2", "training-2-tuned"}
    assert {row[1] for row in rows} == names and len(rows) == 2 * len(names)
    assert all(0 < float(row[-1]) < 20 for row in rows if row[0] == "efficientnet-b0")


def test_two_threads_are_the_default_where_there_are_two_cores(monkeypatch):
    for cores, threads in ((1, [1]), (2, [1, 2]), (64, [1, 2])):
        monkeypatch.setattr(worker, "count_cores", lambda cores=cores: cores)
        assert worker.default_threads() == threads


def test_a_table_is_written_and_drawn(tmp_path):
    timings = [SLOWED._replace(model="efficientnet-b0"), STEADY._replace(model="efficientnet-b1"), STEADY]
    rows = latencies.rows(timings, timing.ratios(timings, "b"), "b")
    lines = latencies.format_table(rows)
    assert [line.split()[0] for line in lines] == ["model", "efficientnet-b0", "efficientnet-b1", "b"]
    assert lines[1].split() == ["efficientnet-b0", "onnx", "1", "2.00", "8.67", "2.00", "20.00", "76.88", "2.00"]
    latencies.write_results(tmp_path, rows, timings, latencies.describe_machine())
    with open(tmp_path / "latency.csv", newline="") as file:
        assert [row["times_b"] for row in csv.DictReader(file)] == ["2.0", "1.0", ""]
    written = json.loads((tmp_path / "latency.json").read_text())
    assert written["timings"][0]["rounds_ms"] == [[2, 2, 2], [20, 20, 20], [2, 2, 8]]
    assert written["machine"]["packages"]["onnxruntime"]
    [axes] = latencies.draw(rows).axes
    points, peer = axes.lines
    assert points.get_xydata().tolist() == [[1.0, 78.84], [2.0, 76.882]]  # docs/models.md
    assert peer.get_xdata() == [1.0, 1.0]
    assert [text.get_text() for text in axes.texts] == ["b0", "b1", "b"]
    with pytest.raises(ValueError, match="nothing to plot"):
        latencies.draw(rows[2:])


@pytest.mark.parametrize("milliseconds", [[7.31], [2.0, 2.001], [21, 38], [0.4, 0.6], [12, 95], [3, 4000], [0.02, 900]])
def test_the_plot_has_numbers_however_narrow_its_axis_is(milliseconds):
    rows = [{"model": "efficientnet-b0", "format": "onnx", "threads": 1, "top_1": 76.88, "median_ms": 1.0}]
    figure = latencies.draw([rows[0] | {"median_ms": ms} for ms in milliseconds])
    figure.draw_without_rendering()
    [axes] = figure.axes
    low, high = axes.get_xlim()
    shown = [(label.get_position()[0], label.get_text()) for label in axes.get_xticklabels()]
    numbers = [float(text) for place, text in shown if low <= place <= high and text]
    assert 3 <= len(set(numbers)) == len(numbers) <= 20
    assert all(low <= number <= high for number in numbers)


def test_the_plot_shows_peers_and_files_under_their_own_names():
    row = {"model": "efficientnet-b0", "format": "onnx", "threads": 1, "top_1": 76.88, "median_ms": 10.0}
    others = [
        {"model": name, "top_1": None, "median_ms": ms} for name, ms in (("ResNet152", 80.0), ("a $^$.onnx", 5.0))
    ]
    figure = latencies.draw([row, *(row | other for other in others)])
    figure.draw_without_rendering()  # a name that is taken for a formula fails here
    [axes] = figure.axes
    assert [text.get_text() for text in axes.texts] == ["b0", "ResNet152", "a $^$.onnx"]
    low, high = axes.get_xlim()
    assert low < 5.0 and high > 80.0


def test_formats_are_compared_side_by_side_and_the_fastest_is_marked():
    def row(model, name, threads, ms):
        return {"model": model, "format": name, "threads": threads, "median_ms": ms}

    rows = [row("a", "onnx", 1, 3.0), row("a", "tflite", 1, 2.0), row("a", "tflite", 2, 1.5), row("b", "onnx", 1, 9.0)]
    assert [line.split() for line in latencies.side_by_side(rows)] == [
        ["median", "ms", "a,", "1", "thread", "a,", "2", "threads", "b,", "1", "thread"],
        ["onnx", "3.00", "-", "9.00*"],
        ["tflite", "2.00*", "1.50*", "-"],
    ]
    assert latencies.side_by_side(rows[2:]) == []


@pytest.mark.slow
def test_the_example_with_files_runs_as_printed(files, tmp_path):
    (tmp_path / "export").symlink_to(ROOT / "export")
    for name in ("float32.tflite", "model.onnx"):
        (tmp_path / f"b0{Path(name).suffix}").symlink_to(files / "small" / name)
    [example] = [line for line in run_help("export/benchmark.py") if "--files=" in line and "python export/" in line]
    code, lines, errors = run(*shlex.split(example)[1:], cwd=tmp_path)
    assert (code, errors) == (0, [])
    numbers = worker.default_threads()
    expected = [[f"b0.{kind}", kind, str(threads)] for kind in ("tflite", "onnx") for threads in numbers]
    assert [line.split()[:3] for line in lines[1 : 1 + len(expected)]] == expected
    assert lines[1 + len(expected)].startswith("processor: ")
    assert {file.name for file in (tmp_path / "latency").iterdir()} == {"latency.csv", "latency.json"}


@pytest.mark.slow
def test_the_example_of_the_paper_runs_as_printed_and_the_small_network_is_faster(tmp_path):
    (tmp_path / "export").symlink_to(ROOT / "export")
    [example] = [line for line in run_help("export/benchmark.py") if "ResNet152" in line and "python export/" in line]
    code, lines, errors = run(*shlex.split(example)[1:], "--output=new", "--plot", cwd=tmp_path)
    assert (code, errors) == (0, [])
    with open(tmp_path / "new" / "latency.csv", newline="") as file:
        ratios = {row["format"]: row["times_efficientnet-b1"] for row in csv.DictReader(file) if row["top_1"] == ""}
    assert float(ratios["keras"]) > 5.7 and float(ratios["tflite"]) > 5.7  # Tan & Le 2019, table 4
    assert (tmp_path / "new" / "latency.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "There is nothing to time. Give models or files."),
        ("--models=efficientnet-b9", "Unknown models: efficientnet-b9. Choose from: efficientnet-b0, "),
        ("--peers=EfficientNetB9", "keras.applications has no network 'EfficientNetB9'. Choose from: "),
        ("--models=efficientnet-b0 --formats=pdf", "Unknown format 'pdf'. Choose from: keras, keras-folded, "),
        ("--files=absent.tflite", "There is no file 'absent.tflite'"),
        ("--files=absent.tflite --threads=1,many", "flag --threads=['1', 'many']: must be whole numbers"),
        ("--files=absent.tflite --plot", "--plot needs a folder to write to: --output=latency"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(tmp_path, options, message):
    code, lines, errors = run(ROOT / "export/benchmark.py", *options.split(), cwd=tmp_path)
    assert (code, lines, len(errors)) == (1, [], 1), errors
    assert errors[0].startswith(f"benchmark.py: {message}")
    assert not [*tmp_path.iterdir()]
