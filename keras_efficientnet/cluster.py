"""The hosts that train together: read from TF_CONFIG, and waited for. Standard library only."""

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ADDRESS = re.compile(r"(?P<host>\[[\w:.%]+\]|[^\s:/@,\[\]]+):(?P<port>\d{1,5})")
JOBS = ("chief", "worker")  # the hosts that train, in TensorFlow's order
EVALUATOR = "evaluator"
HINT = "Correct it, or unset it to train on this host alone."
GREETING = b"keras_efficientnet "
POLL_SECONDS, TIMEOUT_SECONDS, LINGER_SECONDS = 0.2, 2.0, 3.0
FIRST_LINE_SECONDS, LINE_SECONDS = 5.0, 60.0


class Host(NamedTuple):
    """A process that trains."""

    name: str  # "worker 0"
    address: str  # "host0:2222"


class Cluster(NamedTuple):
    """The hosts that train together."""

    hosts: tuple[Host, ...]
    own: Host | None  # this process; None if it only evaluates


def read_cluster(text: str) -> Cluster:
    """Returns the cluster that a value of TF_CONFIG describes.

    Example:
        >>> jobs = {"worker": ["host0:2222", "host1:2222"]}
        >>> read_cluster(json.dumps({"cluster": jobs, "task": {"type": "worker", "index": 1}})).own
        Host(name='worker 1', address='host1:2222')

    Raises:
        ValueError: TensorFlow would not accept it, or would wait for hosts that cannot be reached.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _error(f"must be JSON ({error})", text) from error
    content = _to_object(content, "must be a JSON object with `cluster` and `task`")
    cluster = _to_object(content.get("cluster"), "needs `cluster`: an object such as {'worker': ['host0:2222']}")
    hosts = [host for job, addresses in cluster.items() for host in _read_job(job, addresses)]
    _check_distinct(hosts)
    trains = tuple(host for job in JOBS for host in hosts if host.name.split()[0] == job)
    if not trains:
        raise _error("must list the hosts that train, as `worker` in `cluster`", cluster)
    own = _find_task(_to_object(content.get("task"), "needs `task`: an object with `type` and `index`"), hosts)
    return Cluster(trains, own if own in trains else None)


def _read_job(job: str, addresses: Any) -> list[Host]:
    """Returns the hosts of a job."""
    if job not in (*JOBS, EVALUATOR):
        raise _error(f"must name only the jobs {', '.join(JOBS)} and {EVALUATOR} in `cluster`", job)
    if not isinstance(addresses, list) or not addresses:
        raise _error(f"must have a list of addresses such as ['host0:2222'] as `{job}` in `cluster`", addresses)
    if job != "worker" and len(addresses) > 1:
        raise _error(f"must have one address as `{job}` in `cluster`", addresses)
    for address in addresses:
        match = ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match["port"]) < 65536:
            raise _error(f"must have addresses of the form host:port as `{job}` in `cluster`", address)
    return [Host(f"{job} {index}", address) for index, address in enumerate(addresses)]


def _check_distinct(hosts: list[Host]) -> None:
    names: dict[str, str] = {}
    for host in hosts:
        other = names.setdefault(host.address.lower(), host.name)
        if other != host.name:
            raise _error(f"must give each host its own address, but {other} and {host.name} share one", host.address)


def _find_task(task: Mapping[str, Any], hosts: list[Host]) -> Host | None:
    """Returns the host that a task names; None for an evaluator that is not in the cluster."""
    jobs = sorted({host.name.split()[0] for host in hosts} | {EVALUATOR})
    job, index = task.get("type"), task.get("index")
    if job not in jobs:
        raise _error(f"must have a job of `cluster` as `type` in `task`: one of {', '.join(jobs)}", job)
    names = [host.name for host in hosts if host.name.split()[0] == job]
    if isinstance(index, str) and re.fullmatch(r"\d+", index, re.ASCII):
        index = int(index)  # as TensorFlow reads it
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < max(len(names), 1):
        raise _error(f"must have a number from 0 to {max(len(names), 1) - 1} as `index` in `task`, for {job}", index)
    return next((host for host in hosts if host.name == f"{job} {index}"), None)


def _to_object(value: Any, expected: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise _error(expected, value)
    return value


def _error(expected: str, received: Any) -> ValueError:
    return ValueError(f"TF_CONFIG {expected}. Received: {str(received)[:200]!r}. {HINT}")


def wait_for_hosts(cluster: Cluster) -> None:
    """Waits until all hosts have called this function, and logs which ones are late.

    TensorFlow waits as well, but without a word, and Ctrl-C does not stop it.

    Raises:
        ValueError: this process cannot listen at its own address, or another host has another TF_CONFIG.
    """
    missing = {host: "" for host in cluster.hosts if host != cluster.own}
    if not missing or not cluster.own:
        return
    started = time.monotonic()
    next_line = started + FIRST_LINE_SECONDS
    with _listening(cluster, cluster.own):
        while missing := {host: reason for host in missing if (reason := _find_fault(cluster, host))}:
            if time.monotonic() >= next_line:
                late = ", ".join(f"{host.name} at {host.address} ({reason})" for host, reason in missing.items())
                logging.warning(f"Waiting for {len(missing)} of {len(cluster.hosts)} hosts to start: {late}")
                next_line += LINE_SECONDS
            time.sleep(POLL_SECONDS)
    if next_line > started + FIRST_LINE_SECONDS:
        logging.warning(f"All {len(cluster.hosts)} hosts have started.")


@contextlib.contextmanager
def _listening(cluster: Cluster, own: Host) -> Iterator[None]:
    """Greets the other hosts at the port of this one until TensorFlow listens there."""
    ended = threading.Event()
    with _open_server(own) as server:
        server.settimeout(POLL_SECONDS)

        def greet():
            while not ended.is_set():
                with contextlib.suppress(OSError):  # nobody connected, or somebody has left
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(_greeting(cluster, own))

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        try:
            yield
        except ValueError:
            time.sleep(LINGER_SECONDS)  # the other hosts must see what is wrong, too
            raise
        finally:
            ended.set()
            thread.join()


def _open_server(own: Host) -> socket.socket:
    port = int(own.address.rsplit(":", 1)[1])
    try:
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        except ValueError:  # there is no IPv6
            return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"TF_CONFIG says that this host is {own.name} at {own.address}, but it cannot listen at port {port}: "
            f"{reason}. Stop the process that uses the port, or choose another port on all hosts."
        ) from error


def _find_fault(cluster: Cluster, host: Host) -> str:
    """Returns why a host has not started, or "" if it has. Raises ValueError if it has another TF_CONFIG."""
    name, port = host.address.rsplit(":", 1)
    try:
        with socket.create_connection((name.strip("[]"), int(port)), timeout=TIMEOUT_SECONDS) as connection:
            if connection.getsockname() == connection.getpeername():  # on one machine a free port may answer itself
                return "no answer"
            received = _read_line(connection)
    except OSError as error:
        return error.strerror or str(error)
    is_greeting = received.startswith(GREETING) and received.endswith(b"\n")
    if is_greeting and received != _greeting(cluster, host):
        other, *hosts = json.loads(received.removeprefix(GREETING))
        raise ValueError(
            f"TF_CONFIG must be the same on all hosts, except for `task`. The process at {host.address} is {other} of "
            f"{hosts}. Expected: {host.name} of {_list_addresses(cluster)}."
        )
    return ""


def _read_line(connection: socket.socket) -> bytes:
    """Returns what the other side says first; TensorFlow may wait for us to speak."""
    try:
        with connection.makefile("rb") as stream:
            return stream.readline()
    except TimeoutError:
        return b""


def _greeting(cluster: Cluster, host: Host) -> bytes:
    """Returns what a host tells those that connect to it before TensorFlow listens there."""
    return GREETING + json.dumps([host.name, *_list_addresses(cluster)]).encode() + b"\n"


def _list_addresses(cluster: Cluster) -> list[str]:
    return [f"{host.name} {host.address}" for host in cluster.hosts]
