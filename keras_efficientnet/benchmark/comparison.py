"""Writes networks in every format, times them and reports: what export/benchmark.py does."""

import functools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_efficientnet.benchmark import candidates, latencies, tasks
from keras_efficientnet.files import save_figure
from keras_efficientnet.models import create_model
from keras_efficientnet.preflight import check_models, check_plot
from keras_efficientnet.runtimes import timing
from keras_efficientnet.runtimes.timing import Candidate, Timing
from keras_efficientnet.runtimes.worker import default_threads

Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to time and how."""

    models: Sequence[str] = ()  # networks of this package, with random weights
    peers: Sequence[str] = ()  # networks of keras.applications, with random weights, converted plainly
    files: Sequence[str] = ()  # existing files
    formats: Sequence[str] = ()  # keys of `TIMED_FORMATS`, for `models` and `peers`; all if empty and without `tasks`
    tasks: Sequence[str] = ()  # keys of `TASKS`, for `models` and `peers`, with the most threads
    batch_sizes: Sequence[int] = ()  # of the tasks; by default those of `TASKS`
    threads: Sequence[int] = field(default_factory=default_threads)  # each file is timed with each number of threads
    baseline: str | None = None  # network or file to compare with, or NAME:FORMAT; the first if None
    rounds: int = timing.ROUNDS  # see `timing.measure`
    calls: int = timing.CALLS
    processor_time: bool = False


def compare_latencies(
    comparison: Comparison,
    *,
    output: str | None = None,
    plot: bool = False,
    writing: Progress = iter,
    timing_files: Progress = iter,
) -> list[str]:
    """Times networks and files, and returns the tables as lines of text.

    Args:
        comparison: what to time and how.
        output: folder for latency.csv, latency.json and latency.png.
        plot: whether to draw latency.png.
        writing: wraps an iterable to show progress while files are written, as `tqdm.tqdm`.
        timing_files: wraps an iterable to show progress while files are timed.

    Raises:
        ValueError: a name or number is unknown or out of range, or there is nothing to time.
        FileNotFoundError: a file does not exist.
        RuntimeError: a file does not run.
    """
    check_plot(plot, output)
    _check(comparison)
    machine = latencies.describe_machine()
    timings = _measure(comparison, writing, timing_files)
    baseline = comparison.baseline or _default_baseline(timings[0], comparison.files)
    rows = latencies.rows(timings, timing.ratios(timings, *baseline.split(":")), baseline)
    if output:
        latencies.write_results(Path(output), rows, timings, machine)
    if output and plot:
        save_figure(latencies.draw(rows), Path(output) / "latency.png")
    medians = latencies.side_by_side(rows)
    description = ", ".join(f"{name}: {value}" for name, value in machine.items() if name != "packages")
    return latencies.format_table(rows) + (["", *medians, ""] if medians else []) + [description]


def _check(comparison):
    timing.check_threads(comparison.threads)
    tasks.check_tasks(comparison.tasks, comparison.batch_sizes, processor_time=comparison.processor_time)
    check_models(comparison.models)
    names = (*comparison.models, *comparison.peers, *comparison.files)
    if comparison.baseline and comparison.baseline.split(":")[0] not in names:
        raise ValueError(f"--baseline={comparison.baseline} is none of --models, --peers and --files.")


def _measure(comparison, writing, timing_files) -> list[Timing]:
    with tempfile.TemporaryDirectory() as folder:
        found = candidates.find_candidates(comparison.files, comparison.threads)
        found += _write(comparison, Path(folder), writing)
        found += tasks.make_candidates(
            comparison.tasks,
            (*comparison.models, *comparison.peers),
            batch_sizes=comparison.batch_sizes,
            threads=max(comparison.threads),
        )
        return timing.measure(
            found,
            rounds=comparison.rounds,
            calls=comparison.calls,
            processor_time=comparison.processor_time,
            progress=timing_files,
        )


def _write(comparison, folder, progress) -> list[Candidate]:
    ours = {name: functools.partial(create_model, name) for name in comparison.models}
    theirs = {name: candidates.find_peer(name) for name in comparison.peers}
    if comparison.tasks and not comparison.formats:
        return []
    formats = comparison.formats or [*candidates.TIMED_FORMATS]
    write = functools.partial(
        candidates.write_candidates, folder=folder, formats=formats, threads=comparison.threads, progress=progress
    )
    written = write(ours) if ours else []
    return written + (write(theirs, plainly=True) if theirs else [])


def _default_baseline(first: Timing, files) -> str:
    """Returns the first network; files are compared with the first file, whatever its format."""
    return f"{first.model}:{first.format}" if first.model in files else first.model
