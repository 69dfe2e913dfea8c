"""Writing complete or not at all, by processes that are killed for real. Nothing here imports TensorFlow."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from keras_efficientnet import files, locks

WRITER = """
import sys, time
from pathlib import Path
from keras_efficientnet import files
if "scripts" in sys.argv:
    files.stop_on_signals()
try:
    with files.replacing(sys.argv[1], is_ours=Path.exists) as new:
        new.mkdir()
        (new / "one").write_text("new")
        print("writing", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit("stopped")
"""
# kills itself where only a system without a one-step exchange can be interrupted
GAP = """
import os, signal, sys
from pathlib import Path
from keras_efficientnet import files
files._exchange = lambda one, other: False
replace = os.replace
def stop_after_the_first(source, target):
    replace(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = stop_after_the_first
with files.replacing(sys.argv[1], is_ours=Path.is_dir) as new:
    new.mkdir()
    (new / "one").write_text("new")
"""


def restore_signals():
    """A process started in the background of a shell, or by `nohup`, ignores these, and so would its children."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start():
    """Starts a process that writes a folder until it is stopped."""
    with contextlib.ExitStack() as stack:

        def run(target, *arguments, before=restore_signals):
            command = [sys.executable, "-c", WRITER, str(target), *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, preexec_fn=before, **pipes))
            stack.callback(process.kill)
            assert process.stdout.readline() == b"writing\n"
            return process

        yield run


def write(target, text):
    with files.replacing(target, is_ours=type(target).is_dir) as new:
        new.mkdir()
        (new / "one").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["new", "a b [1].v2", "ü.*?"])
def target(request, tmp_path):
    (tmp_path / request.param).mkdir()
    (tmp_path / request.param / "one").write_text("old")
    return tmp_path / request.param


def test_what_a_killed_process_left_is_removed_by_the_next(start, target):
    process = start(target)
    process.kill()
    process.wait()
    assert len(names(target.parent)) == 2
    write(target, "newer")
    assert names(target.parent) == [target.name] and (target / "one").read_text() == "newer"


def test_what_a_living_process_writes_stays(start, tmp_path):
    process = start(tmp_path / "new")
    process.send_signal(signal.SIGSTOP)
    written = names(tmp_path)
    write(tmp_path / "new", "of another")
    assert names(tmp_path) == [*written, "new"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_a_script_removes_what_it_writes(start, tmp_path, number):
    process = start(tmp_path / "new", "scripts")
    process.send_signal(number)
    assert process.wait(10) == 1
    assert names(tmp_path) == []


CALLBACK = """
import os, signal, sys, time
from keras_efficientnet import files

class Garbage:  # exceptions in this method, as in the callbacks of the garbage collector, are ignored
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)
files.stop_on_signals()
try:
    Garbage()
    time.sleep(20)
except (KeyboardInterrupt, files.Terminated) as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")])
def test_a_signal_in_a_callback_is_not_lost(number, name):
    command = [sys.executable, "-c", CALLBACK, str(int(number))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


def test_a_script_under_nohup_ignores_the_end_of_its_terminal(start, tmp_path):
    process = start(tmp_path / "new", "scripts", before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)


def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("this system has no exchange in one step")
    write(tmp_path / "new", "old")
    monkeypatch.setattr(os, "replace", lambda *_: pytest.fail("moved away first"))
    write(tmp_path / "new", "new")
    assert (tmp_path / "new/one").read_text() == "new" and names(tmp_path) == ["new"]


def test_a_folder_that_was_moved_away_and_not_replaced_comes_back(target):
    command = [sys.executable, "-c", GAP, str(target)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(FileExistsError, match="exists"):
        files.check_target(target, False, type(target).is_dir)
    assert (target / "one").read_text() == "old" and names(target.parent) == [target.name]


def test_without_locks_too_and_then_what_another_writes_stays(target, monkeypatch):
    subprocess.run([sys.executable, "-c", GAP, str(target)], cwd=ROOT)
    (left,) = names(target.parent)
    monkeypatch.setattr(locks, "fcntl", None)  # as on Windows
    files.check_target(target, True, is_ours=type(target).is_dir)
    assert (target / "one").read_text() == "old" and names(target.parent) == [left, target.name]
    assert (target.parent / left / target.name / "one").read_text() == "new"


@pytest.mark.parametrize(
    "name", [".new.backup", ".new.12345678", ".unfinished", ".new.unfinished", ".new.abc.unfinished"]
)
def test_folders_of_the_user_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis").write_text("precious")
    write(tmp_path / "new", "new")
    assert (tmp_path / name / "thesis").read_text() == "precious"
    assert names(tmp_path / name) == ["thesis"]
