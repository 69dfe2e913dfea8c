"""What a user sees in a terminal: plain lines of this package, and of TensorFlow's C++ libraries only what matters.

As a script, it is the filter between the C++ libraries and the terminal. Its imports at the top are of the standard
library: the filter starts quickly.
"""

import atexit
import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

OURS = "keras_efficientnet"  # the logger of this package
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver, on Linux and in WSL
_FILTERING = threading.Lock()  # held while file descriptor 2 leads to a filter


def has_gpu() -> bool:
    """Returns whether the machine has an NVIDIA GPU with a driver, which TensorFlow may still be unable to use."""
    return any(map(os.path.exists, GPU_DEVICES))


def _native(level: str, source: str = r"[\w.-]+\.(?:cc|h)", message: str = "") -> str:
    """Returns a pattern of the lines that C++ logs: "2026-01-31 23:59:59.9: I a/b.cc:1] " or "I0131 ... b.cc:1] "."""
    return rf"(?:\d+-\d\d-\d\d [\d:.]+: {level} (?:[\w.-]+/)*|{level}\d{{4}} [\d:.]+ +\d+ ){source}:\d+\] {message}"


NOISE = (
    "WARNING: All log messages before ",
    "(?:INFO|VERBOSE): ",  # LiteRT: "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
    "To enable the following instructions: ",  # second line of an information
    _native("[IW]"),  # TF_CPP_MIN_LOG_LEVEL comes too late for some of them
    _native("E", message=r"Unable to register cu\w+ (?:factory|plugin)"),  # libraries that are linked twice
)
NOISE_WITHOUT_GPU = (_native("E", source=r"cuda\w*\.cc"),)  # "failed call to cuInit"


def make_noise_pattern(gpu: bool) -> re.Pattern[bytes]:
    """Returns the pattern of lines that are hidden. Errors about GPUs are hidden only on machines without one."""
    return re.compile("|".join(NOISE if gpu else NOISE + NOISE_WITHOUT_GPU).encode())


def filter_native_logs() -> None:
    """Passes what C++ libraries write to stderr through a filter, which hides information and known false alarms.

    The filter is a process of its own: it also shows the last words of a process that crashes. Python's own stderr does
    not pass through it. Call this before TensorFlow is imported; without it, TensorFlow shows all of its lines.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not _can_filter() or not _FILTERING.acquire(blocking=False):
        return
    with contextlib.suppress(OSError):  # too many processes or files: then nothing is hidden
        process, screen = _start_filter()
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = open(screen, "w", buffering=1, encoding=encoding, errors=errors, closefd=False)
        atexit.register(_stop_filter, process, screen)


@contextlib.contextmanager
def filtering_native_logs() -> Iterator[None]:
    """Does what `filter_native_logs` does, with Python's own stderr too, while the block runs.

    Only one block at a time does so, as all threads share the descriptor of stderr; none does in a process that called
    `filter_native_logs`.
    """
    if not _can_filter() or not _FILTERING.acquire(blocking=False):
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_FILTERING.release)
        with contextlib.suppress(OSError):  # as above, or a program without stderr
            process, screen = _start_filter()
            stack.callback(os.close, screen)
            stack.callback(_stop_filter, process, screen)
        yield


def _can_filter() -> bool:
    """Returns whether Python can be started beside this process. In a frozen program, that would start the program."""
    return os.name != "nt" and sys.stderr is not None and bool(sys.executable) and not getattr(sys, "frozen", False)


def _start_filter() -> tuple["subprocess.Popen[bytes]", int]:
    """Returns the process of a filter to which file descriptor 2 leads now, and a descriptor of where 2 led before."""
    screen = os.dup(2)
    command = [sys.executable, "-I", "-S", __file__]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=screen, start_new_session=True)
    except BaseException:
        os.close(screen)
        raise
    os.dup2(process.stdin.fileno(), 2)  # type: ignore[union-attr]
    process.stdin.close()  # type: ignore[union-attr]
    return process, screen


def _stop_filter(process: "subprocess.Popen[bytes]", screen: int) -> None:
    """Shows the last lines before this process goes on or ends; child processes that go on keep the filter."""
    os.dup2(screen, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)


def run_filter() -> None:
    """Copies stdin to stdout without noise, until all processes that write to it have ended."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the processes that write decide when they stop
        signal.signal(name, signal.SIG_IGN)
    noise, rest = make_noise_pattern(has_gpu()), b""
    while True:
        if rest and not select.select([0], [], [], 0.2)[0]:  # a line without an end: a progress bar, a prompt
            _write(rest)
            rest = b""
        chunk = os.read(0, 1 << 16)
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        _write(b"".join(line + b"\n" for line in lines if not noise.match(line)))
        if not chunk:
            return _write(rest)


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]


class LineHandler(logging.Handler):
    """Shows records as plain lines, above a progress bar if there is one: information on stdout, others on stderr.

    Information of other libraries is not shown, for example how long TensorFlow takes for a checkpoint.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.split(".")[0] == OURS

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        is_information = record.levelno < logging.WARNING
        stream = sys.stdout if is_information else sys.stderr
        text = record.getMessage()
        tqdm.write(text if is_information else f"{record.levelname.lower()}: {text}", file=stream)
        stream.flush()


def hide_other_lines(handler: logging.Handler) -> None:
    """Hides what other libraries write, in a process whose terminal is for our own lines.

    Args:
        handler: the root logger's handler of the library that parsed the flags.
    """
    logging.root.removeHandler(handler)
    filter_native_logs()


@contextlib.contextmanager
def own_lines(*, verbose: bool = False) -> Iterator[None]:
    """Shows only our own lines and warnings while the block runs.

    Args:
        verbose: whether to show all lines instead, as their libraries write them.
    """
    with contextlib.nullcontext() if verbose else plain_lines():
        yield


@contextlib.contextmanager
def plain_lines() -> Iterator[None]:
    """Shows information of this package and warnings of all packages as plain lines while the block runs."""
    ours, handler = logging.getLogger(OURS), LineHandler()
    fonts = logging.getLogger("matplotlib")
    levels, show = (ours.level, fonts.level), warnings.showwarning
    ours.setLevel(logging.INFO)
    fonts.setLevel(logging.ERROR)  # it warns that it builds its list of fonts, once for each machine
    logging.root.addHandler(handler)
    warnings.showwarning = lambda message, *where, **options: ours.warning(message)
    try:
        yield
    finally:
        warnings.showwarning = show
        logging.root.removeHandler(handler)
        for logger, level in zip((ours, fonts), levels, strict=True):
            logger.setLevel(level)


if __name__ == "__main__":
    run_filter()
