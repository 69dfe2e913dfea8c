"""Runs the scripts of export/ as a user does, in processes that have already imported Keras and TensorFlow."""

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOISE = re.compile(  # written by TensorFlow's C++
    r"WARNING: All log messages before absl|[IWE]0000 |INFO: Created TensorFlow Lite"
)
PROGRESS = re.compile(r"^\s*$|.*%\|")  # progress bars of tqdm
FORKSERVER = multiprocessing.get_context("forkserver")  # importing takes longer than most scripts run
FORKSERVER.set_forkserver_preload(["keras", "keras_efficientnet.export"])


def run(script, *arguments, cwd):
    """Returns the exit code, the lines on stdout, and the lines on stderr that are not TensorFlow's."""
    return _start(_run_script, str(script), arguments, cwd)


def run_module(name, *arguments, cwd):
    """As `run`, for `python -m NAME`."""
    return _start(_run_module, name, arguments, cwd)


def _start(target, name, arguments, cwd):
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = FORKSERVER.Process(target=target, args=(name, [*map(str, arguments)], str(cwd), out, err))
        process.start()
        process.join(600)
        assert process.exitcode is not None, "the script did not end"
        errors = [line for line in err.read_text().splitlines() if not NOISE.match(line) and not PROGRESS.match(line)]
        return process.exitcode, out.read_text().splitlines(), errors


def start(script, *arguments, cwd):
    """Starts a script and returns its process; what it prints goes to the files `out` and `err` in `cwd`."""
    arguments = [str(script), arguments, str(cwd), Path(cwd, "out"), Path(cwd, "err")]
    process = FORKSERVER.Process(target=_run_script, args=arguments)
    process.start()
    return process


def run_help(script, *, cwd=ROOT):
    """Returns the lines that --help prints; it must come at once, without importing TensorFlow."""
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert not [line for line in done.stderr.splitlines() if "tensorflow" in line]
    return [line.strip() for line in done.stdout.splitlines()]


def _run_script(script, arguments, cwd, out, err):
    _prepare(script, arguments, cwd, out, err)
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


def _run_module(name, arguments, cwd, out, err):
    _prepare(name, arguments, cwd, out, err)
    runpy.run_module(name, run_name="__main__")


def _prepare(name, arguments, cwd, out, err):
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background of a shell ignores it,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one started by `nohup` this
    sys.argv = [name, *arguments]
