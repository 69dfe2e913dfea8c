"""TF_CONFIG is read before TensorFlow sees it, and late hosts are waited for."""

import json
import logging
import socket
import threading
import time

import pytest
from support.runs import free_ports

from keras_efficientnet import cluster
from keras_efficientnet.cluster import Cluster, Host, read_cluster, wait_for_hosts

TWO = ["host0:2222", "host1:2222"]
EVALUATOR = {"type": "evaluator", "index": 0}
FIRST = {"type": "worker", "index": 0}


def config(jobs=None, task=None):
    return json.dumps({"cluster": {"worker": TWO} if jobs is None else jobs, "task": FIRST if task is None else task})


@pytest.mark.parametrize(
    "text, hosts, own",
    [
        (config(), ["worker 0", "worker 1"], "worker 0"),
        (config(task={"type": "worker", "index": 1}), ["worker 0", "worker 1"], "worker 1"),
        (config(task={"type": "worker", "index": "1"}), ["worker 0", "worker 1"], "worker 1"),
        (config({"worker": TWO[:1], "chief": ["[::1]:7"]}), ["chief 0", "worker 0"], "worker 0"),
        (config({"chief": TWO[:1]}, {"type": "chief", "index": 0}), ["chief 0"], "chief 0"),
        (
            config({"worker": TWO, "evaluator": ["e:1"]}, {"type": "evaluator", "index": 0}),
            ["worker 0", "worker 1"],
            None,
        ),
        (config(task={"type": "evaluator", "index": 0}), ["worker 0", "worker 1"], None),
        (json.dumps(json.loads(config()) | {"environment": "cloud", "job": {}}), ["worker 0", "worker 1"], "worker 0"),
    ],
)
def test_what_tensorflow_accepts_is_read(text, hosts, own):
    found = read_cluster(text)
    assert [host.name for host in found.hosts] == hosts
    assert (found.own and found.own.name) == own


WRONG = {
    "not JSON": ("{'cluster': 1}", "must be JSON"),
    "a path": ("/etc/tf_config.json", "must be JSON"),
    "blank": (" ", "must be JSON"),
    "cut off": (config()[:-1], "must be JSON"),
    "a list": ("[]", "must be a JSON object with `cluster` and `task`"),
    "a string": ('"worker"', "must be a JSON object"),
    "null": ("null", "must be a JSON object"),
    "empty": ("{}", "must be a JSON object"),
    "no cluster": (json.dumps({"task": FIRST}), "needs `cluster`"),
    "cluster of no jobs": (config({}), "needs `cluster`"),
    "cluster as a list": (config(TWO), "needs `cluster`"),
    "no task": (json.dumps({"cluster": {"worker": TWO}}), "needs `task`"),
    "task as a list": (config(task=["worker", 0]), "needs `task`"),
    "task as a string": (config(task="worker"), "needs `task`"),
    "no workers": (config({"worker": []}), "must have a list of addresses"),
    "workers as a string": (config({"worker": "host0:2222,host1:2222"}), "must have a list of addresses"),
    "workers as an object": (config({"worker": {"0": "host0:2222"}}), "must have a list of addresses"),
    "an evaluator alone": (config({"evaluator": ["host0:2222"]}), "must list the hosts that train"),
    "parameter servers": (config({"worker": TWO, "ps": ["host2:2222"]}), "must name only the jobs chief, worker"),
    "an unknown job": (config({"workers": TWO}), "must name only the jobs chief, worker and evaluator"),
    "two chiefs": (config({"chief": TWO}, {"type": "chief", "index": 0}), "must have one address as `chief`"),
    "no port": (config({"worker": ["host0", "host1"]}), "of the form host:port"),
    "no host": (config({"worker": [":2222"]}), "of the form host:port"),
    "port as a word": (config({"worker": ["host0:grpc"]}), "of the form host:port"),
    "port 0": (config({"worker": ["host0:0"]}), "of the form host:port"),
    "port too high": (config({"worker": ["host0:65536"]}), "of the form host:port"),
    "negative port": (config({"worker": ["host0:-1"]}), "of the form host:port"),
    "a URL": (config({"worker": ["grpc://host0:2222"]}), "of the form host:port"),
    "a space": (config({"worker": ["host0: 2222"]}), "of the form host:port"),
    "IPv6 without brackets": (config({"worker": ["::1:2222"]}), "of the form host:port"),
    "a number": (config({"worker": [2222]}), "of the form host:port"),
    "null address": (config({"worker": [None]}), "of the form host:port"),
    "nested list": (config({"worker": [TWO]}), "of the form host:port"),
    "the same address twice": (config({"worker": ["a:1", "b:1", "A:1"]}), "its own address, but worker 0 and worker 2"),
    "an address in two jobs": (config({"chief": ["a:1"], "worker": ["a:1"]}), "its own address, but chief 0 and"),
    "no type": (config(task={"index": 0}), "must have a job of `cluster` as `type`"),
    "unknown type": (config(task={"type": "master", "index": 0}), "one of evaluator, worker. Received: 'master'"),
    "type as a list": (config(task={"type": ["worker"], "index": 0}), "must have a job of `cluster` as `type`"),
    "a chief that is not listed": (
        config(task={"type": "chief", "index": 0}),
        "must have a job of `cluster` as `type`",
    ),
    "no index": (config(task={"type": "worker"}), "must have a number from 0 to 1 as `index`"),
    "index too high": (config(task={"type": "worker", "index": 2}), "must have a number from 0 to 1 as `index`"),
    "negative index": (config(task={"type": "worker", "index": -1}), "from 0 to 1 as `index`"),
    "index as a word": (config(task={"type": "worker", "index": "first"}), "from 0 to 1 as `index`"),
    "index as a fraction": (config(task={"type": "worker", "index": 0.5}), "from 0 to 1 as `index`"),
    "index true": (config(task={"type": "worker", "index": True}), "from 0 to 1 as `index`"),
    "index null": (config(task={"type": "worker", "index": None}), "from 0 to 1 as `index`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_tf_config_is_one_clear_line(case):
    text, expected = WRONG[case]
    with pytest.raises(ValueError) as info:
        read_cluster(text)
    message = str(info.value)
    assert message.startswith("TF_CONFIG ") and expected in message
    assert "Received: " in message and message.endswith("Correct it, or unset it to train on this host alone.")
    assert "\n" not in message and len(message) < 400


def make_cluster(own, count=2):
    hosts = tuple(Host(f"worker {index}", f"localhost:{port}") for index, port in enumerate(free_ports(count)))
    return [Cluster(hosts, host) for host in hosts] if own is None else Cluster(hosts, hosts[own])


def start_host(own, end, errors=None):
    """Starts a thread that waits for the other hosts, then listens as TensorFlow does until `end`."""

    def start():
        try:
            wait_for_hosts(own)
        except ValueError as error:
            errors.append(str(error))
            return
        with socket.create_server(("", int(own.own.address.split(":")[1]))):
            end.wait(20)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    return thread


def test_a_late_host_is_waited_for_and_named(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "FIRST_LINE_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 0.5)
    end, clusters = threading.Event(), make_cluster(None, 3)
    threads = [start_host(each, end) for each in clusters[:2]]
    while len(caplog.records) < 2:
        time.sleep(0.05)
    late = clusters[2].own
    line = f"Waiting for 1 of 3 hosts to start: worker 2 at {late.address} (Connection refused)"
    assert {record.message for record in caplog.records if record.levelno == logging.WARNING} == {line}
    threads.append(start_host(clusters[2], end))
    while [record.message for record in caplog.records].count("All 3 hosts have started.") < 2:
        time.sleep(0.05)
        assert all(thread.is_alive() for thread in threads)
    end.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_hosts_that_start_together_and_one_host_alone_do_not_wait(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", 0.2)
    for count in (2, 1):
        end = threading.Event()
        threads = [start_host(each, end) for each in make_cluster(None, count)]
        time.sleep(0.5)
        end.set()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert not caplog.records


@pytest.mark.parametrize("kind", ["one host more", "another order", "another address"])
def test_hosts_with_different_clusters_are_all_told(monkeypatch, kind):
    """The addresses of the first two are right; TensorFlow would wait for hosts that never come."""
    monkeypatch.setattr(cluster, "LINGER_SECONDS", 0.7)
    a, b, c = (f"localhost:{port}" for port in free_ports(3))
    first, second = {"one host more": ([a, b], [a, b, c]), "another order": ([a, b, c], [c, b, a])}.get(
        kind, ([a, b, c], [a, b, a.replace("localhost", "127.0.0.1")])
    )
    clusters = [
        read_cluster(config({"worker": workers}, {"type": "worker", "index": index}))
        for index, workers in enumerate((first, second))
    ]
    errors = []
    threads = [start_host(each, threading.Event(), errors) for each in clusters]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(errors) == 2, errors
    assert all("TF_CONFIG must be the same on all hosts, except for `task`." in error for error in errors)


def test_a_port_in_use_is_named():
    own = make_cluster(1)
    port = int(own.own.address.split(":")[1])
    with socket.create_server(("", port)), pytest.raises(ValueError) as info:
        wait_for_hosts(own)
    assert f"this host is worker 1 at localhost:{port}, but it cannot listen at port {port}: " in str(info.value)


def test_a_host_without_a_name_server_entry_is_late_not_an_error(monkeypatch, caplog):
    """The names of pods appear when they start."""
    monkeypatch.setattr(cluster, "FIRST_LINE_SECONDS", 0.0)
    own = Host("worker 0", f"localhost:{free_ports(1)[0]}")
    waiting = Cluster((own, Host("worker 1", "nobody.invalid:2222")), own)
    threading.Thread(target=wait_for_hosts, args=(waiting,), daemon=True).start()
    end = time.monotonic() + 10
    while not caplog.records and time.monotonic() < end:
        time.sleep(0.05)
    assert "worker 1 at nobody.invalid:2222 (" in caplog.records[0].message
