"""The run folder: one training at a time, and what cannot be written is named before the first step."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from support.runs import SMALL

from keras_efficientnet import training
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder

pytestmark = pytest.mark.usefixtures("short_network")

HOLD = """
import sys
from keras_efficientnet.runs import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(folder):
    """Starts a process that locks a run folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_training_in_a_folder_is_refused_and_told_who_trains_there(tmp_path):
    start = time.time()
    with hold(tmp_path / "run") as process:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for mode in ("train", "train_and_eval"):
            with pytest.raises(
                RuntimeError, match="/run is in use: process .* trains in it. Wait for its end, or"
            ) as info:
                training.run(make_config(model_dir=str(tmp_path / "run"), mode=mode, **SMALL))
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        message = str(info.value)
        assert f"process {process.pid} on {socket.gethostname()} since " in message
        since = re.search(r"since (\S+ \S+ \S+) trains", message)[1]
        assert abs(time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S %z")) - start) < 60
        process.stdin.close()
    with RunFolder(tmp_path / "run").lock():
        pass


def test_a_lock_that_a_crash_left_does_not_block(tmp_path):
    with hold(tmp_path) as process:
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with RunFolder(tmp_path).lock():
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


def test_one_of_many_trainings_that_start_together_gets_the_folder(tmp_path):
    """The lock is removed at the end of each: none may hold a file that is no longer there."""
    inside, most, errors = [], [], []

    def train():
        for _ in range(50):
            try:
                with RunFolder(tmp_path).lock():
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.0002)
                    inside.pop()
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=train) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) + len(errors) == 400
    assert all("is in use: " in error for error in errors)


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No files train-"):
        training.run(make_config(model_dir=str(tmp_path / "run"), data_dir=str(tmp_path / "nowhere"), **SMALL))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def read_only():
    """A run folder that this process may read and not write, also if the user of the tests is root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "checkpoints").mkdir()
        is_root = os.geteuid() == 0
        for path in () if is_root else (folder, folder / "checkpoints"):
            path.chmod(0o555)
        os.seteuid(65534 if is_root else os.geteuid())
        yield folder
        os.seteuid(0 if is_root else os.geteuid())
        folder.chmod(0o755)


@pytest.mark.parametrize("mode", ["train", "train_and_eval", "eval", "preview", "predict"])
def test_a_folder_that_cannot_be_written_is_named_before_the_data_are_read(read_only, mode):
    call = {"preview": training.preview, "predict": training.predict}.get(mode, training.run)
    options = {"mode": mode, "model_dir": str(read_only), "data_dir": "/nowhere"}
    options |= {"images": __file__} if mode == "predict" else {}
    with pytest.raises(OSError, match=f"{read_only} must be a folder that can be written: Permission denied. Allow it"):
        call(make_config(**SMALL | options))


@pytest.mark.parametrize("name", ["run", "run/checkpoints", "run/archive", "run/new"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    folder = tmp_path / ("run/new/run" if name == "run/new" else "run")
    message = "run/new/run cannot be created: Not a dir" if name == "run/new" else f"{name} .*(File exists|Not a dir)"
    with pytest.raises(OSError, match=message):
        training.run(make_config(model_dir=str(folder), **SMALL))


LOST = {"at the end": (6, None), "later than the first": (3, None), "best checkpoint": (0, 1)}


@pytest.mark.parametrize("logged_step, best", LOST.values(), ids=LOST)
@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_that_lost_all_checkpoints_is_refused(tmp_path, logged_step, best, has_folder):
    run = start_run(tmp_path, has_folder)
    if best:
        run.keep_best(best, {"top_1_accuracy": 0.5}, lambda path: Path(f"{path}.index").write_bytes(b""))
    with pytest.raises(ValueError, match="holds none, although .* Copy checkpoints/ again; or remove log.jsonl"):
        run.check_untrained(logged_step)


@pytest.mark.parametrize("logged_step, has_folder", [(0, True), (0, False), (1, True), (1, False), (2, True)])
def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, logged_step, has_folder):
    """The row of step 2 is logged before its checkpoint is written."""
    start_run(tmp_path, has_folder).check_untrained(logged_step)
    RunFolder(tmp_path / "new").check_untrained(logged_step)  # killed before it had options


def start_run(path, has_folder):
    """Returns a run that writes its first checkpoint at step 2."""
    run = RunFolder(path)
    run.write_options({"checkpoint_steps": 2, "train_steps": 6})
    run.archive.mkdir()
    if has_folder:
        run.checkpoints.mkdir()
    return run
