"""The process that opens one model file and times calls to it, for `timing`."""

import contextlib
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from keras_efficientnet.cpu import tune_cpu
from keras_efficientnet.runtimes.networks import LOADERS, Network


def serve(
    pipe: Connection,
    runtime: str | Callable[[str, int], Network],
    path: str,
    threads: int,
    processor_time: bool = False,
    tuned: bool = False,
) -> None:
    """Opens a file, then times calls for the process at the other end of the pipe.

    First sends the number of bytes of the images of a call, or the exception that prevented opening the file. Then for
    each number of calls that it receives, it sends the seconds of each call, a list. Where the system supports it, the
    process runs on `threads` cores only.

    Args:
        pipe: connection to the process that measures.
        runtime: a key of `LOADERS`, or a function that opens `path` with `threads`.
        path: the file.
        threads: threads that compute.
        processor_time: whether to measure processor time, summed over the cores, instead of elapsed time.
        tuned: whether to call `tune_cpu` first.
    """
    clock = time.process_time if processor_time else time.perf_counter
    try:
        _use_cores(threads)
        if tuned:
            tune_cpu()
        network = (LOADERS[runtime] if isinstance(runtime, str) else runtime)(path, threads)
        shape = [size or fallback for size, fallback in zip(network.shape, (1, 224, 224, 3), strict=True)]
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(network.dtype)
        time_calls(network.run, images, 3)  # runtimes prepare during the first calls, which are not timed
    except Exception as error:  # runtimes raise exceptions of any type; the other process raises this one
        place = f" in {runtime}" if isinstance(runtime, str) else ""
        pipe.send(RuntimeError(f"{path} does not run{place}: {type(error).__name__}: {error}"))
        return
    pipe.send(images.nbytes)
    with contextlib.suppress(EOFError, ConnectionError):  # the other process has closed the pipe
        while True:
            calls = pipe.recv()
            time_calls(network.run, images, 1)  # other processes have used the caches since the last call
            pipe.send(time_calls(network.run, images, calls, clock))


def time_calls(
    call: Callable[[np.ndarray], Any], images: np.ndarray, calls: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Returns the seconds of each of several calls."""
    seconds = []
    for _ in range(calls):
        start = clock()
        call(images)
        seconds.append(clock() - start)
    return seconds


def count_cores() -> int:
    """Returns the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> list[int]:
    """Returns the numbers of threads that a network is timed with: 1, and 2 if there are two cores."""
    return list(range(1, min(2, count_cores()) + 1))


def _use_cores(count):
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])
