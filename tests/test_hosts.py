"""Several processes, each a host of MultiWorkerMirroredStrategy on this machine: only TF_CONFIG differs."""

import contextlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.images import write_folder
from support.runs import SMALL, checkpoint_names, checkpoint_values, free_ports, run_main, start_mains

from keras_efficientnet.runs import RunFolder

pytestmark = pytest.mark.usefixtures("short_network")

OPTIONS = SMALL | {"iterations_per_loop": 4, "dropout_rate": 0.0, "survival_prob": 1.0}
CALLS = ("options", "missing_data", "other_data", "in_use", "remains", "apart", "preempted")  # of main.py
ENDLESS = SMALL | {"mode": "train", "checkpoint_steps": 8, "train_steps": 100_000}


def prepare_hosts(folder, calls, hosts=2):
    """Returns a function for each host of a new cluster, which starts it; see `start_hosts`."""
    workers = [f"localhost:{port}" for port in free_ports(hosts)]

    def prepare(index):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        (folder / str(index)).mkdir(exist_ok=True)
        log, place = folder / f"{index}.log", folder / str(index)
        return lambda: start_mains(log, calls(index), place, TF_CONFIG=json.dumps(cluster))

    return [prepare(index) for index in range(hosts)]


def start_hosts(folder, calls, hosts=2):
    """Starts a new cluster; each host calls main.py once for each of `calls(index of the host)`, in its own folder."""
    return [start() for start in prepare_hosts(folder, calls, hosts)]


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
    """Two hosts that call main.py several times: with mistakes, to the last step, and until a SIGTERM."""
    folder = tmp_path_factory.mktemp("hosts")
    write_folder(folder / "0/data", ("cat", "dog"), 10)
    write_folder(folder / "1/data", ("cat", "fox"), 11)
    write_folder(folder / "0/on_one_host", ("cat", "dog"), 10)

    def calls(index):
        train = SMALL | {"mode": "train", "train_steps": 8}
        images = train | {"dataset": "folder", "train_batch_size": 4, "model_dir": folder / "never"}
        names = {"data_dir": str(index), "model_name": f"efficientnet-b{index}"}
        other = names | {"seed": index, "train_batch_size": 4 + index}
        made = {
            "options": images | other,
            "missing_data": images | {"data_dir": "on_one_host"},
            "other_data": images | {"data_dir": "data"},
            "in_use": SMALL | {"model_dir": folder / "in_use"},
            "remains": train | {"model_dir": folder / "remains"},
            "apart": train | {"model_dir": folder / f"apart{index}"},
            "preempted": ENDLESS | {"model_dir": folder / "preempted"},
        }
        return [made[name] for name in CALLS]

    for name in ("ckpt-2_temp", "ckpt-2.index"):  # a folder in the place of the index: the chief cannot remove it
        (folder / "remains/checkpoints" / name).mkdir(parents=True)
    with RunFolder(folder / "in_use").lock():
        hosts = start_hosts(folder, calls)
        wait_for_checkpoint(folder / "preempted", lambda: all(host.poll() is None for host in hosts))
    hosts[1].terminate()
    wait(hosts)
    return folder


def outputs(folder, call):
    """Returns the output of each host for a call of main.py, and the exit statuses."""
    parts = [re.split(r"^exit status (\d+)\n", path.read_text(), flags=re.M) for path in sorted(folder.glob("*.log"))]
    place = 2 * CALLS.index(call)
    return [each[place] for each in parts], [int(each[place + 1]) for each in parts]


@pytest.mark.slow
def test_hosts_with_other_options_name_them_all_and_stop(cluster):
    texts, codes = outputs(cluster, "options")
    assert codes == [1, 1], texts
    for text in texts:
        assert "All hosts must train alike, but they differ: model_name is 'efficientnet-b0' on worker 0 and " in text
        assert "data_dir is '0' on" in text and "train_batch_size is 4 on" in text
        assert "seed is 0 on worker 0 and 1 on worker 1. Start all hosts with the same options." in text
        assert "steps is" not in text and "model_dir" not in text


@pytest.mark.slow
def test_data_that_one_host_lacks_stop_all(cluster):
    texts, codes = outputs(cluster, "missing_data")
    assert codes == [1, 1], texts
    assert "There is no folder 'on_one_host'" in texts[1]
    assert "because worker 1 failed: There is no folder 'on_one_host'" in texts[0]


@pytest.mark.slow
def test_hosts_with_other_data_are_an_error(cluster):
    texts, codes = outputs(cluster, "other_data")
    assert codes == [1, 1], texts
    for text in texts:
        assert "training images is 18 on worker 0 and 20 on worker 1" in text
        assert "classes is ('cat', 'dog') on worker 0 and ('cat', 'fox') on worker 1" in text
    assert not (cluster / "never/config.json").exists()


@pytest.mark.slow
def test_hosts_whose_first_one_cannot_clean_the_folder_all_stop(cluster):
    texts, codes = outputs(cluster, "remains")
    assert codes == [1, 1], texts
    assert "because worker 0 failed: " in texts[1] and "ckpt-2.index" in texts[1]


@pytest.mark.slow
def test_hosts_whose_folder_is_in_use_all_stop(cluster):
    texts, codes = outputs(cluster, "in_use")
    assert codes == [1, 1], texts
    assert f"main.py: {cluster / 'in_use'} is in use: process {os.getpid()} on " in texts[0]
    assert f"because worker 0 failed: {cluster / 'in_use'} is in use: process {os.getpid()} on " in texts[1]
    assert not (cluster / "in_use").exists()


@pytest.mark.slow
def test_hosts_with_different_folders_are_an_error(cluster):
    texts, codes = outputs(cluster, "apart")
    assert codes == [1, 1], texts
    assert all("is not the same folder on all hosts" in text for text in texts)


@pytest.mark.slow
def test_sigterm_on_one_host_saves_a_checkpoint_and_stops_all(cluster):
    texts, codes = outputs(cluster, "preempted")
    assert codes == [75, 75], texts
    assert not any("retracing" in text for text in texts)  # TensorFlow warns if a function is made anew at each call
    step = int(checkpoint_values(cluster / "preempted")[0].split("-")[1])
    assert logs(cluster).count(f"main.py: Stopped at step {step}. A checkpoint is saved.") == 2


@pytest.mark.slow
def test_a_late_host_is_waited_for_with_a_line_that_says_so(tmp_path):
    options = SMALL | {"mode": "train", "train_steps": 3, "model_dir": tmp_path / "run"}
    first, second = prepare_hosts(tmp_path, lambda index: [options])
    hosts = [first()]
    while "Waiting for 1 of 2 hosts to start: worker 1 at localhost:" not in logs(tmp_path):
        assert hosts[0].poll() is None
        time.sleep(0.2)
    hosts.append(second())
    wait(hosts, 120)
    assert statuses(tmp_path) == [[0], [0]], logs(tmp_path)
    assert "All 2 hosts have started." in logs(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("count, steps_per_call", [(1, 1), (2, 16)])
def test_memory_and_open_files_stay_flat_over_3000_steps(tmp_path, count, steps_per_call):
    """TensorFlow keeps 2 kB for each sum between hosts in each call of the device, so there 16 steps are one call."""
    run = tmp_path / "run"
    options = SMALL | {"mode": "train", "train_steps": 3000, "iterations_per_loop": steps_per_call}
    options |= {"checkpoint_steps": 250}
    hosts = start_hosts(tmp_path, lambda index: [options | {"model_dir": run}], count)
    samples = []  # step, then kilobytes and open files of each host
    while all(host.poll() is None for host in hosts):
        time.sleep(0.2)
        lines = (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").exists() else []
        step = json.loads(lines[-1])["step"] if lines else 0
        with contextlib.suppress(OSError, TypeError):  # a process has just ended
            samples.append((step, *(number for host in hosts for number in measure(host.pid))))
    wait(hosts)
    assert statuses(tmp_path) == [[0]] * count, logs(tmp_path)
    early = np.median([row for row in samples if 500 <= row[0] < 1000], axis=0)
    late = np.median([row for row in samples if 2500 <= row[0] < 3000], axis=0)
    growth = (late - early)[1:].reshape(count, 2)
    assert (growth[:, 0] < 30_000).all() and (growth[:, 1] < 3).all(), f"{early} {late}"


def measure(process):
    """Returns the kilobytes and the open files of a process."""
    memory = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(memory[1]), len(os.listdir(f"/proc/{process}/fd"))


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
