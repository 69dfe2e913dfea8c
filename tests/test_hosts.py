"""Several processes, each a host of MultiWorkerMirroredStrategy on this machine: TF_CONFIG is all that differs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_training import checkpoint_values

MAIN = Path(__file__).parent.parent / "main.py"
OPTIONS = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.2,
    "input_image_size": 32,
    "train_batch_size": 16,
    "eval_batch_size": 100,
    "iterations_per_loop": 4,
    "dropout_rate": 0.0,
    "survival_prob": 1.0,
    "export": False,
}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(folder, hosts=2, own_folder=None, **options):
    """main.py on each host of a new cluster, in the same folder, or the last one in its own."""
    workers = [f"localhost:{port}" for port in free_ports(hosts)]
    flags = [f"--{key}={value}" for key, value in (OPTIONS | options | {"model_dir": folder}).items()]
    processes = []
    for index in range(hosts):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        variables = os.environ | ({"TF_CONFIG": json.dumps(cluster)} if hosts > 1 else {})
        if own_folder and index == hosts - 1:
            flags = [*flags, f"--model_dir={own_folder}"]
        with open(f"{folder}.{index}.log", "w") as log:
            processes.append(subprocess.Popen([sys.executable, MAIN, *flags], stdout=log, stderr=log, env=variables))
    return processes


def wait(processes, seconds=240):
    """The exit codes; a host that hangs is killed and has none."""
    end = time.monotonic() + seconds
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(max(1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(None)
    return codes


def logs(folder):
    return "\n".join(path.read_text() for path in sorted(folder.parent.glob(f"{folder.name}.*.log")))


def assert_close(folder, expected, tolerance):
    name, found = checkpoint_values(folder)
    wanted, values = checkpoint_values(expected)
    assert name == wanted
    for key, value in values.items():
        largest = max(1.0, np.abs(value).max()) * (2 if "mean_square" in key else 1)  # a square is off by twice as much
        np.testing.assert_allclose(found[key], value, rtol=0, atol=tolerance * largest, err_msg=key)


def test_two_hosts_are_one_process(tmp_path):
    """20 steps, four a call: weights, statistics, averages, optimizer; and the evaluation counts every image once."""
    assert wait(start(tmp_path / "one", hosts=1, train_steps=20)) == [0]
    hosts = start(tmp_path / "two", train_steps=20)
    assert wait(hosts) == [0, 0], logs(tmp_path / "two")
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["model"] for name in ("one", "two"))
    assert one["images"] == two["images"] == 355
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert [row["step"] for row in rows(tmp_path / "two")] == [row["step"] for row in rows(tmp_path / "one")]


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def wait_for_checkpoint(folder, processes):
    while not any((folder / "checkpoints").glob("ckpt-*.index")):
        assert all(process.poll() is None for process in processes), logs(folder)
        time.sleep(0.05)


@pytest.mark.slow
def test_a_host_that_is_killed_ends_the_job_which_then_goes_on(tmp_path):
    """The other host ends with 75, "run me again"; the job started again ends where an uninterrupted one ends."""
    options = {"mode": "train", "checkpoint_steps": 40, "train_steps": 200}
    hosts = start(tmp_path / "killed", **options)
    wait_for_checkpoint(tmp_path / "killed", hosts)
    hosts[1].send_signal(signal.SIGKILL)
    assert wait(hosts, 120) == [75, -9], logs(tmp_path / "killed")
    assert wait(start(tmp_path / "killed", **options)) == [0, 0], logs(tmp_path / "killed")
    assert wait(start(tmp_path / "whole", **options)) == [0, 0]
    assert_close(tmp_path / "killed", tmp_path / "whole", 1e-5)


def test_hosts_with_folders_of_their_own_are_refused(tmp_path):
    hosts = start(tmp_path / "0", train_steps=8, mode="train", own_folder=tmp_path / "1")
    assert wait(hosts, 120) == [1, 1], logs(tmp_path / "0")
    assert "is not the same folder on all hosts" in logs(tmp_path / "0")


def test_sigterm_on_one_host_saves_and_ends_all(tmp_path):
    options = {"mode": "train", "checkpoint_steps": 10, "train_steps": 100_000}
    hosts = start(tmp_path / "run", **options)
    wait_for_checkpoint(tmp_path / "run", hosts)
    hosts[1].terminate()
    assert wait(hosts, 120) == [75, 75], logs(tmp_path / "run")
    step = int(checkpoint_values(tmp_path / "run")[0].split("-")[1])
    assert f"Asked to end at step {step}, which is saved." in logs(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_save_and_say_run_me_again(tmp_path, number):
    options = {"mode": "train", "checkpoint_steps": 10}
    [process] = start(tmp_path / "run", hosts=1, train_steps=100_000, **options)
    wait_for_checkpoint(tmp_path / "run", [process])
    process.send_signal(number)
    assert wait([process], 60) == [75]
    step = int(checkpoint_values(tmp_path / "run")[0].split("-")[1])
    assert wait(start(tmp_path / "run", hosts=1, train_steps=step + 6, **options)) == [0]
    assert checkpoint_values(tmp_path / "run")[0] == f"ckpt-{step + 6}"
