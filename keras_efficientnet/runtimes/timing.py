"""How long files take for one image, each in its runtime and on so many cores: in turns, so that noise hits all."""

import contextlib
import multiprocessing
import statistics
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from keras_efficientnet.runtimes import openers

ROUNDS, CALLS = 5, 4  # together the 20 calls of Tan & Le 2019, arxiv.org/abs/1905.11946, table 4
LONGEST_START = 600  # seconds until a process has opened its file and called it


class Candidate(NamedTuple):
    model: str  # efficientnet-b0, or what else to call it
    format: str  # for the table: tflite-int8
    runtime: str  # a key of `runtimes.OPENERS`
    path: str
    threads: int


class Timing(NamedTuple):
    model: str
    format: str
    threads: int
    rounds: tuple[tuple[float, ...], ...]  # milliseconds of each call, round by round

    @property
    def mean(self) -> float:
        """Of all calls, in milliseconds: what the paper gives."""
        return statistics.fmean(self._calls)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """A quarter, a half and three quarters of the calls took less, in milliseconds. The second is the median."""
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
    """Times each candidate's file on one image, batch 1, from an array to an array.

    Each is held open by a process of its own, on as many cores as it has threads. In each round each is called in turn,
    once untimed and then `calls` times, in the other direction in every second round; the others wait meanwhile.

    Args:
        candidates: what to time.
        rounds: how often each has its turn, at least 1.
        calls: how many are timed in a turn, at least 1.
        processor_time: whether to count the time that a process's cores were at work, all together, which other
            programs hardly change, in place of the time that passes. Threads that wait for work count as at work.
        progress: wraps the turns, to show how far it is: `tqdm.tqdm`.

    Raises:
        ValueError: no candidate, one with more threads than there are cores, or `rounds` or `calls` out of range.
        RuntimeError: a file does not run.
    """
    _check(candidates, rounds, calls)
    seconds: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    with contextlib.ExitStack() as stack:
        places = sorted(range(len(candidates)), key=lambda place: _group(candidates[place]))
        opening = [("start", place) for place in places]
        turns = [("time", place) for number in range(rounds) for place in (places if number % 2 == 0 else places[::-1])]
        pipes: dict[int, Connection] = {}
        for what, place in progress(opening + turns):
            if what == "start":
                pipes[place] = stack.enter_context(_serving(candidates[place], processor_time))
            else:
                seconds[place].append(tuple(_receive(pipes[place], candidates[place], calls)))
    return [
        Timing(candidate.model, candidate.format, candidate.threads, _milliseconds(each))
        for candidate, each in zip(candidates, seconds, strict=True)
    ]


def ratio(timing: Timing, baseline: Timing) -> float:
    """How many times as long as `baseline` it takes: the median over rounds of what the medians in a round give.

    The two of a round were measured one after the other, so a machine that is busy for a while does not change it.
    """
    pairs = zip(timing.rounds, baseline.rounds, strict=True)
    return statistics.median(statistics.median(own) / statistics.median(other) for own, other in pairs)


def ratios(timings: Sequence[Timing], model: str, format: str | None = None) -> dict[Timing, float]:
    """The `ratio` of each timing to the one of `model` with as many threads, where there is one.

    In the same format each, or all to the one `format`.

    Raises:
        ValueError: there is no such model, or it is in no such format.
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
    """Raises a ValueError unless there is a core for each thread."""
    cores = openers.count_cores()
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
def _nobody_s_script() -> Iterator[None]:
    """Keeps a process that is started from running the program's script anew, which a spawned one does by itself."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _serving(candidate: Candidate, processor_time: bool) -> Iterator[Connection]:
    """A process that has the candidate's file open, and answers through the pipe."""
    context = multiprocessing.get_context("spawn")  # a forked one would have this one's TensorFlow
    here, there = context.Pipe()
    arguments = (there, candidate.runtime, candidate.path, candidate.threads, processor_time)
    process = context.Process(target=openers.serve, args=arguments, daemon=True)
    with _nobody_s_script():
        process.start()
    there.close()
    try:
        _receive(here, candidate, None)
        yield here
    finally:
        here.close()
        process.kill()  # it holds nothing that is to be put away
        process.join()


def _receive(pipe, candidate, calls):
    """What the process says that it has opened its file; given `calls`, what it says to these."""
    try:
        if calls:
            pipe.send(calls)
        elif not pipe.poll(LONGEST_START):
            raise RuntimeError(f"{candidate.path} was not open in {candidate.runtime} after {LONGEST_START} seconds.")
        answer = pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(f"{candidate.path}: the process with {candidate.runtime} died. Out of memory?") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _milliseconds(rounds):
    return tuple(tuple(1000 * second for second in calls) for calls in rounds)
