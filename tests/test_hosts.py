"""Several processes, each a host of MultiWorkerMirroredStrategy on this machine: only TF_CONFIG differs."""

import json
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
from support.runs import SMALL, checkpoint_names, checkpoint_values, run_main, start_mains

from keras_efficientnet.runs import RunFolder

pytestmark = pytest.mark.usefixtures("short_network")

OPTIONS = SMALL | {"iterations_per_loop": 4, "dropout_rate": 0.0, "survival_prob": 1.0}
ENDLESS = SMALL | {"mode": "train", "checkpoint_steps": 8, "train_steps": 100_000}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_hosts(folder, calls, hosts=2):
    """Starts a new cluster; each host calls main.py once for each of `calls(index of the host)`."""
    workers = [f"localhost:{port}" for port in free_ports(hosts)]
    clusters = [{"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}} for i in range(hosts)]
    return [
        start_mains(folder / f"{index}.log", calls(index), TF_CONFIG=json.dumps(cluster))
        for index, cluster in enumerate(clusters)
    ]


def wait(processes, seconds=240):
    """Waits for all hosts, and kills one that hangs."""
    end = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(1, end - time.monotonic()))
        finally:
            process.kill()


def logs(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


def statuses(folder):
    """Returns for each host the exit statuses of its calls of main.py."""
    lines = [path.read_text().splitlines() for path in sorted(folder.glob("*.log"))]
    return [[int(line.split()[-1]) for line in each if line.startswith("exit status ")] for each in lines]


def assert_close(folder, expected, tolerance):
    name, found = checkpoint_values(folder)
    expected_name, values = checkpoint_values(expected)
    assert name == expected_name
    for key, value in values.items():
        largest = max(1.0, np.abs(value).max()) * (2 if "mean_square" in key else 1)  # squares have twice the error
        np.testing.assert_allclose(found[key], value, rtol=0, atol=tolerance * largest, err_msg=key)


def wait_for_checkpoint(run, is_running, after=()):
    while not set(checkpoint_names(run)) - set(after):
        assert is_running()
        time.sleep(0.05)


def test_two_hosts_equal_one_process(tmp_path):
    """20 steps, four a call: weights, statistics, averages, optimizer; and the evaluation counts every image once."""
    hosts = start_hosts(tmp_path, lambda index: [OPTIONS | {"model_dir": tmp_path / "two", "train_steps": 20}])
    wait(hosts)
    assert statuses(tmp_path) == [[0], [0]], logs(tmp_path)
    assert run_main(**OPTIONS, model_dir=tmp_path / "one", train_steps=20).status == 0
    assert_close(tmp_path / "two", tmp_path / "one", 1e-5)
    one, two = (json.loads((tmp_path / run / "results.json").read_text())["model"] for run in ("one", "two"))
    assert one["images"] == two["images"] == 355
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert logged_steps(tmp_path / "two") == logged_steps(tmp_path / "one")


def logged_steps(run):
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two hosts that call main.py three times: in a folder in use, in different ones, and until a SIGTERM."""
    folder = tmp_path_factory.mktemp("hosts")

    def calls(index):
        apart = SMALL | {"model_dir": folder / f"apart{index}", "train_steps": 8, "mode": "train"}
        return [SMALL | {"model_dir": folder / "in_use"}, apart, ENDLESS | {"model_dir": folder / "preempted"}]

    with RunFolder(folder / "in_use").lock():
        hosts = start_hosts(folder, calls)
        wait_for_checkpoint(folder / "preempted", lambda: all(host.poll() is None for host in hosts))
    hosts[1].terminate()
    wait(hosts)
    return folder


@pytest.mark.slow
def test_hosts_whose_folder_is_in_use_all_stop(cluster):
    assert [codes[0] for codes in statuses(cluster)] == [1, 1], logs(cluster)
    assert logs(cluster).count(f"in_use is in use: process {os.getpid()} on ") == 1
    assert logs(cluster).count("in_use: see its message") == 1 and not (cluster / "in_use").exists()


@pytest.mark.slow
def test_hosts_with_different_folders_are_an_error(cluster):
    assert [codes[1] for codes in statuses(cluster)] == [1, 1], logs(cluster)
    assert logs(cluster).count("is not the same folder on all hosts") == 2


@pytest.mark.slow
def test_sigterm_on_one_host_saves_a_checkpoint_and_stops_all(cluster):
    assert [codes[2] for codes in statuses(cluster)] == [75, 75], logs(cluster)
    step = int(checkpoint_values(cluster / "preempted")[0].split("-")[1])
    assert logs(cluster).count(f"main.py: Preempted at step {step}. A checkpoint is saved.") == 2


@pytest.mark.slow
def test_a_killed_host_stops_the_job_which_then_resumes(tmp_path):
    """The other host exits with 75, "try again"; the job started again ends like an uninterrupted one."""
    options = OPTIONS | {"mode": "train", "checkpoint_steps": 40, "train_steps": 200}

    def run_hosts(run, name):
        (tmp_path / name).mkdir()
        return start_hosts(tmp_path / name, lambda index: [options | {"model_dir": tmp_path / run}])

    hosts = run_hosts("killed", "first_logs")
    wait_for_checkpoint(tmp_path / "killed", lambda: all(host.poll() is None for host in hosts))
    hosts[1].kill()
    wait(hosts, 120)
    assert statuses(tmp_path / "first_logs") == [[75], []], logs(tmp_path / "first_logs")
    for run, name in (("killed", "second_logs"), ("uninterrupted", "third_logs")):
        wait(run_hosts(run, name))
        assert statuses(tmp_path / name) == [[0], [0]], logs(tmp_path / name)
    assert_close(tmp_path / "killed", tmp_path / "uninterrupted", 1e-5)


def test_sigterm_and_ctrl_c_save_a_checkpoint_and_exit_with_75(tmp_path):
    assert threading.current_thread() is threading.main_thread()  # Python handles signals only there
    for number in (signal.SIGTERM, signal.SIGINT):
        before = checkpoint_names(tmp_path)

        def send(number=number, before=before):
            wait_for_checkpoint(tmp_path, lambda: True, after=before)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        assert run_main(**ENDLESS, model_dir=tmp_path).status == 75
        thread.join()
    step = int(checkpoint_values(tmp_path)[0].split("-")[1])
    assert run_main(**ENDLESS | {"train_steps": step + 6}, model_dir=tmp_path).status == 0
    assert checkpoint_values(tmp_path)[0] == f"ckpt-{step + 6}"
