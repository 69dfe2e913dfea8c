"""Times model files on one image, each in its runtime and in a process of its own."""

import contextlib
import multiprocessing
import statistics
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from keras_efficientnet.runtimes import worker
from keras_efficientnet.runtimes.networks import Network

ROUNDS, CALLS = 5, 4  # 5 times 4 are the 20 calls of Tan & Le 2019, arxiv.org/abs/1905.11946, table 4
START_TIMEOUT = 600  # seconds a process may take to open its file and call it


class Candidate(NamedTuple):
    """A file, or a task, to time."""

    model: str  # name of the network or file in the table, as efficientnet-b0
    format: str  # name of the format in the table, as tflite-int8
    runtime: str | Callable[[str, int], Network]  # a key of `networks.LOADERS`, or what opens `path` with `threads`
    path: str
    threads: int
    tuned: bool = False  # whether its process calls `tune_cpu`


class Timing(NamedTuple):
    """The times of one candidate."""

    model: str
    format: str
    threads: int
    rounds: tuple[tuple[float, ...], ...]  # milliseconds of each call, round by round

    @property
    def mean(self) -> float:
        """Mean of all calls, in milliseconds: the number that the paper reports."""
        return statistics.fmean(self._calls)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of all calls, in milliseconds."""
        if len(self._calls) == 1:
            return (self._calls[0],) * 3
        low, middle, high = statistics.quantiles(self._calls, method="inclusive")
        return low, middle, high

    @property
    def _calls(self):
        return [call for calls in self.rounds for call in calls]


def measure(
    candidates: Sequence[Candidate],
    *,
    rounds: int = ROUNDS,
    calls: int = CALLS,
    processor_time: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Timing]:
    """Times each candidate on one image, from input array to output array.

    A process per candidate keeps its file open, on as many cores as the candidate has threads. In each round the
    candidates take turns, so that other load on the machine affects all of them: one call that is not timed, then
    `calls` timed ones, while the other processes wait. Every second round runs in reverse order.

    Args:
        candidates: files to time.
        rounds: turns per candidate, at least 1.
        calls: timed calls per turn, at least 1.
        processor_time: whether to measure processor time, summed over the cores, instead of elapsed time. Other
            programs hardly change it. Threads that wait actively count as working.
        progress: wraps the iterable of turns to show progress, as `tqdm.tqdm`.

    Raises:
        ValueError: there is no candidate, a candidate has more threads than there are cores, or `rounds` or `calls` is
            out of range.
        RuntimeError: a file does not run.
    """
    _check(candidates, rounds, calls)
    seconds: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    with contextlib.ExitStack() as stack:
        places = sorted(range(len(candidates)), key=lambda place: _group(candidates[place]))
        opening = [("start", place) for place in places]
        turns = [("time", place) for number in range(rounds) for place in (places if number % 2 == 0 else places[::-1])]
        pipes: dict[int, Connection] = {}
        for action, place in progress(opening + turns):
            if action == "start":
                pipes[place] = stack.enter_context(_start_worker(candidates[place], processor_time))
            else:
                seconds[place].append(tuple(_receive(pipes[place], candidates[place], calls)))
    return [
        Timing(model=candidate.model, format=candidate.format, threads=candidate.threads, rounds=_milliseconds(each))
        for candidate, each in zip(candidates, seconds, strict=True)
    ]


def ratio(timing: Timing, baseline: Timing) -> float:
    """Returns how many times as long as `baseline` a candidate takes: the median over rounds of the ratio of medians.

    The times within a round were measured shortly after each other, so a temporarily busy machine cancels out.
    """
    pairs = zip(timing.rounds, baseline.rounds, strict=True)
    return statistics.median(statistics.median(own) / statistics.median(other) for own, other in pairs)


def ratios(timings: Sequence[Timing], model: str, format: str | None = None) -> dict[Timing, float]:
    """Returns the `ratio` of each timing to that of the baseline with as many threads, where one was measured.

    Args:
        timings: all timings.
        model: model of the baseline.
        format: format of the baseline; by default the format of each timing.

    Raises:
        ValueError: the model, or its format, was not measured.
    """
    baselines = {_group(timing): timing for timing in timings if timing.model == model}
    if not [name for name, _ in baselines if format in (None, name)]:
        known = sorted({f"{timing.model}:{timing.format}" for timing in timings})
        raise ValueError(f"There is no {model}{':' * bool(format)}{format or ''} to compare with. Known: {known}")
    pairs = [(timing, baselines.get((format or timing.format, timing.threads))) for timing in timings]
    return {timing: ratio(timing, other) for timing, other in pairs if other and other is not timing}


def _group(timed: Candidate | Timing) -> tuple[str, int]:
    return timed.format, timed.threads


def check_threads(threads: Sequence[int]) -> None:
    """Raises a ValueError if a number of threads exceeds the number of cores."""
    cores = worker.count_cores()
    for count in threads:
        if not 1 <= count <= cores:
            raise ValueError(f"`threads` must be from 1 to {cores}, the cores of this machine. Received: {count}")


def _check(candidates, rounds, calls):
    if not candidates:
        raise ValueError("There is nothing to time. Give models or files.")
    if rounds < 1 or calls < 1:
        raise ValueError(f"`rounds` and `calls` must be at least 1. Received: rounds={rounds}, calls={calls}")
    check_threads([candidate.threads for candidate in candidates])


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hides the main script from multiprocessing, which would run it again in each spawned process."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _start_worker(candidate: Candidate, processor_time: bool) -> Iterator[Connection]:
    """Starts the process that times a candidate, and yields the connection to it."""
    context = multiprocessing.get_context("spawn")  # a forked process would inherit this process's TensorFlow
    here, there = context.Pipe()
    arguments = (there, candidate.runtime, candidate.path, candidate.threads, processor_time, candidate.tuned)
    process = context.Process(target=worker.serve, args=arguments, daemon=True)
    with _without_main_module():
        process.start()
    there.close()
    try:
        _receive(here, candidate, None)
        yield here
    finally:
        here.close()
        process.kill()  # safe: there is nothing to clean up
        process.join()


def _receive(pipe, candidate, calls):
    """Returns the seconds of `calls` calls; without `calls`, the first message, which says that the file is open."""
    try:
        if calls:
            pipe.send(calls)
        elif not pipe.poll(START_TIMEOUT):
            raise RuntimeError(f"{candidate.path} did not open as {candidate.format} within {START_TIMEOUT} seconds.")
        answer = pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(f"{candidate.path}: the process of {candidate.format} died. Out of memory?") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _milliseconds(rounds):
    return tuple(tuple(1000 * second for second in calls) for calls in rounds)
