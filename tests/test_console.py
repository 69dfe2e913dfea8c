"""The lines of a terminal. The C++ lines are those that TensorFlow 2.18 to 2.21 wrote, with and without a GPU."""

import logging
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from keras_efficientnet.console import make_noise_pattern, plain_lines

ROOT = Path(__file__).parent.parent
INFORMATION = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795886005.654766   28044 port.cc:153] oneDNN custom operations are on.",
    "I0000 00:00:1795886005.655118   28044 cudart_stub.cc:31] Could not find cuda drivers on your machine",
    "2025-08-14 10:31:22.714353: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary is",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate",
    "2025-08-14 10:31:20.1: E external/local_xla/xla/cuda/cuda_fft.cc:4] Unable to register cuFFT factory",
    "W0000 00:00:1748443432.421301    3342 computation_placer.cc:177] computation placer already registered.",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
)
NO_GPU = "E0000 00:00:1795886007.008373   28044 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error"
ERRORS = (
    "2025-08-14 10:31:22.7: F tensorflow/core/platform/cpu_feature_guard.cc:35] The TensorFlow library was compiled to",
    "E0000 00:00:1795886007.008373   28044 gpu_device.cc:52] Failed to allocate device memory",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "Segmentation fault",
    "W1128 17:12:33.123456 14012345 loop.py:72] a warning of Python",
)


@pytest.mark.parametrize("gpu", [True, False])
def test_noise_is_information_and_false_alarms(gpu):
    noise = make_noise_pattern(gpu)
    assert [line for line in (*INFORMATION, *ERRORS) if noise.match(line.encode())] == [*INFORMATION]
    assert bool(noise.match(NO_GPU.encode())) != gpu


WRITE = """
import os, sys
from keras_efficientnet import console
console.filter_native_logs()
for line in sys.argv[2:]:
    os.write(2, line.encode() + b"\\n")
os.write(2, b"no end of line")
sys.stderr.write("from Python\\n")
os.abort() if sys.argv[1] == "crash" else None
"""


@pytest.mark.parametrize("end", ["exit", "crash"])
def test_errors_are_shown_even_if_the_process_crashes(end):
    command = [sys.executable, "-c", WRITE, end, *INFORMATION, *ERRORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (end == "exit")
    shown = done.stderr.replace("from Python\n", "", 1)
    assert shown == "".join(f"{line}\n" for line in ERRORS) + "no end of line"


EXPORT = """
import os, sys, time
from keras_efficientnet import console
opened = os.listdir("/dev/fd")
for block in "abc":
    with console.filtering_native_logs():
        os.write(2, sys.argv[1].encode() + b"\\n" + block.encode() + b"\\n")
assert os.listdir("/dev/fd") == opened
with console.filtering_native_logs():
    os.write(2, b"F0000 00:00:1 1 a.cc:35] The last words\\n")
    os.abort()
"""


def test_a_block_shows_errors_even_if_the_process_crashes_in_it():
    command = [sys.executable, "-c", EXPORT, INFORMATION[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "")
    assert done.stderr == "a\nb\nc\nF0000 00:00:1 1 a.cc:35] The last words\n"


SECOND = """
import os
from keras_efficientnet import console
console.filter_native_logs()
pipe = os.fstat(2)
with console.filtering_native_logs():
    assert os.path.samestat(os.fstat(2), pipe)
"""


def test_a_block_in_a_script_that_filters_starts_no_second_filter():
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MAIN = """
import logging
from absl import app
import main
main.run = lambda config: logging.warning("a batch is larger than the data")
app.run(main.start, flags_parser=main.parse_flags)
"""


@pytest.mark.parametrize(
    ("flags", "shown"),
    [([], r"warning: a batch is larger than the data\n"), (["--verbosity=1"], r"W\d{4} .*\] a batch is larger .*\n")],
)
def test_main_shows_a_warning_in_plain_words(flags, shown):
    done = subprocess.run([sys.executable, "-c", MAIN, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(shown, done.stderr)


STOPPED = """
import os, signal
from absl import app
import main
main.preflight.check_run = lambda config: os.kill(os.getpid(), signal.SIGTERM)
main.stop_on_signals()
app.run(main.start, flags_parser=main.parse_flags)
"""


@pytest.mark.parametrize(("mode", "status"), [("train", 75), ("train_and_eval", 75), ("predict", 143)])
def test_sigterm_outside_the_training_loop_says_whether_to_try_again(mode, status):
    command = [sys.executable, "-c", STOPPED, f"--mode={mode}"] + ["--images=."] * (mode == "predict")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == "main.py: stopped by SIGTERM. The same command starts again or resumes.\n"


def test_information_and_warnings_are_plain_lines(capsys):
    with warnings.catch_warnings(), plain_lines():
        warnings.simplefilter("always")
        logging.getLogger("keras_efficientnet.training").info("network  b0")
        logging.getLogger("tensorflow").info("Sharding callback duration: 20 microseconds")
        logging.warning("a batch is larger than the data")
        warnings.warn("classes differ", stacklevel=1)
    shown = capsys.readouterr()
    assert shown.out == "network  b0\n"
    assert shown.err == "warning: a batch is larger than the data\nwarning: classes differ\n"
