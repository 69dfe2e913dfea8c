"""Writes networks in every format, times them and reports: what export/benchmark.py does."""

import functools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.benchmark import candidates, latencies
from keras_efficientnet.files import save_figure
from keras_efficientnet.models import create_model, list_models
from keras_efficientnet.runtimes import timing
from keras_efficientnet.runtimes.timing import Candidate, Timing

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def compare_latencies(
    *,
    models: Sequence[str] = (),
    peers: Sequence[str] = (),
    files: Sequence[str] = (),
    formats: Sequence[str] = (),
    threads: Sequence[int] = (1, 2),
    baseline: str | None = None,
    rounds: int = timing.ROUNDS,
    calls: int = timing.CALLS,
    processor_time: bool = False,
    output: str | None = None,
    plot: bool = False,
    writing_progress: Progress = iter,
    timing_progress: Progress = iter,
) -> list[str]:
    """Times networks and files, and returns the tables as lines of text.

    Args:
        models: networks of this package, with random weights.
        peers: networks of keras.applications, with random weights, converted plainly.
        files: existing files to time.
        formats: keys of `TIMED_FORMATS` for `models` and `peers`; by default all.
        threads: numbers of threads to time each file with.
        baseline: the network or file to compare with, or NAME:FORMAT; by default the first.
        rounds: see `timing.measure`.
        calls: see `timing.measure`.
        processor_time: see `timing.measure`.
        output: folder for latency.csv, latency.json and latency.png.
        plot: whether to draw latency.png.
        writing_progress: wraps an iterable to show progress while files are written, as `tqdm.tqdm`.
        timing_progress: wraps an iterable to show progress while files are timed.

    Raises:
        ValueError: a name or number is unknown or out of range, or there is nothing to time.
        FileNotFoundError: a file does not exist.
        RuntimeError: a file does not run.
    """
    if plot and not output:
        raise ValueError("--plot needs a folder to write to: --output=latency")
    timing.check_threads(threads)
    if unknown := [name for name in models if not list_models(name)]:
        raise ValueError(f"Unknown models: {', '.join(unknown)}. Choose from: {', '.join(list_models())}")
    if baseline and baseline.split(":")[0] not in (*models, *peers, *files):
        raise ValueError(f"--baseline={baseline} is none of --models, --peers and --files.")
    with tempfile.TemporaryDirectory() as folder:
        found = candidates.find_candidates(files, threads)
        found += _write(models, peers, Path(folder), formats, threads, writing_progress)
        machine = latencies.describe_machine()
        timings = timing.measure(
            found, rounds=rounds, calls=calls, processor_time=processor_time, progress=timing_progress
        )
    baseline = baseline or _default_baseline(timings[0], files)
    rows = latencies.rows(timings, timing.ratios(timings, *baseline.split(":")), baseline)
    if output:
        latencies.write_results(Path(output), rows, timings, machine)
    if output and plot:
        save_figure(latencies.draw(rows), Path(output) / "latency.png")
    medians = latencies.side_by_side(rows)
    description = ", ".join(f"{name}: {value}" for name, value in machine.items() if name != "packages")
    return [*latencies.format_table(rows), *(["", *medians, ""] if medians else []), description]


def _write(models, peers, folder, formats, threads, progress) -> list[Candidate]:
    ours = {name: functools.partial(create_model, name) for name in models}
    theirs = {name: candidates.find_peer(name) for name in peers}
    write = functools.partial(
        candidates.write_candidates,
        folder=folder,
        formats=formats or [*candidates.TIMED_FORMATS],
        threads=threads,
    )
    written = write(ours, progress=progress) if ours else []
    return written + (write(theirs, plainly=True, progress=progress) if theirs else [])


def _default_baseline(first: Timing, files) -> str:
    """Returns the first network; files are compared with the first file, whatever its format."""
    return f"{first.model}:{first.format}" if first.model in files else first.model
