"""Devices of a run: makes the strategy for a TPU, several hosts, several GPUs or one device; sums over hosts."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_efficientnet.cluster import JOBS, read_cluster, wait_for_hosts
from keras_efficientnet.config import TrainConfig

OWN_OPTIONS = ("model_dir", "tf_data_service")  # may differ between hosts: a path to one folder, a service nearby
TEXT_BYTES = 16384  # more than the options of a run take


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Returns a strategy for the TPU of `config`, the hosts of TF_CONFIG, several GPUs or logical CPUs, or one device.

    Several hosts each set the environment variable TF_CONFIG of tf.distribute.MultiWorkerMirroredStrategy:
    {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.

    Raises:
        ValueError: the TPU does not exist, there are too few devices, a batch cannot be split over them, TF_CONFIG is
            wrong, or the hosts have different options.
    """
    if config.tpu is not None:
        strategy = _make_tpu_strategy(config.tpu, config.tpu_zone, config.gcp_project)
    elif os.environ.get("TF_CONFIG"):
        strategy = _join_cluster(config, read_cluster(os.environ["TF_CONFIG"]))
    else:
        strategy = _make_local_strategy(config.num_replicas)
    _check_batches(config, strategy.num_replicas_in_sync)
    return strategy


def _join_cluster(config, cluster):
    """Returns a strategy for the hosts of a cluster after all have started with the same options."""
    if config.num_replicas:
        raise ValueError("With TF_CONFIG each host uses all of its devices. Leave `num_replicas` out, or unset it.")
    if cluster.own is None:
        if config.mode != "eval":
            raise ValueError(
                f"TF_CONFIG calls this host an evaluator, which does not train. Received: mode={config.mode}. Set "
                "mode=eval, or unset TF_CONFIG."
            )
        return _make_local_strategy(None)
    if config.mode == "eval" and len(cluster.hosts) > 1:
        raise ValueError("`mode=eval` runs on one host, if need be beside the training hosts. Unset TF_CONFIG.")
    strategy = _make_worker_strategy(cluster)
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in OWN_OPTIONS}
    check_equal(strategy, options, "Start all hosts with the same options.")
    return strategy


def _make_local_strategy(replicas):
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    kind = devices[0].device_type
    count = replicas or (len(devices) if kind == "GPU" else 1)
    if count > len(devices):
        raise ValueError(
            f"`num_replicas` must be at most {len(devices)}: there are {len(devices)} {kind}s. "
            f"Received: num_replicas={count}"
        )
    names = tuple(device.name for device in devices[:count])
    return _make_mirrored_strategy(names) if count > 1 else tf.distribute.get_strategy()


def _check_batches(config, replicas):
    for name, parts in (("train_batch_size", config.accumulate_steps), ("eval_batch_size", 1)):
        if getattr(config, name) % (replicas * parts):
            per_replica = f", times {parts} parts" if parts > 1 else ""
            raise ValueError(
                f"`{name}` must be a multiple of the {replicas} replicas{per_replica}. "
                f"Received: {name}={getattr(config, name)}"
            )


@functools.cache
def _make_mirrored_strategy(names):
    """Returns one strategy per process for the same devices: TensorFlow confuses the sums of a second one with it."""
    return tf.distribute.MirroredStrategy(names)


@functools.cache
def _make_worker_strategy(cluster):
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # at INFO it logs a line for each of hundreds of sums
    wait_for_hosts(cluster)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError, tf.errors.OpError) as error:
        raise ValueError(f"TF_CONFIG must be valid for TensorFlow: {error}. Correct it, or unset it.") from error


def _make_tpu_strategy(tpu, zone, project):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu, zone, project)
    except (ValueError, tf.errors.OpError, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:150]
        raise ValueError(f"There is no TPU {tpu!r}: {reason}. Check `tpu`, or leave it out for GPUs or CPU.") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the files of the run: the only one, or the first of several hosts."""
    if count_hosts(strategy) == 1:
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type in (None, "chief") or (resolver.task_type == "worker" and resolver.task_id == 0)


def count_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that train together."""
    return len(_host_names(strategy))


def _host_names(strategy):
    """Returns the names of the processes that train together, the chief first."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return ["this host"]
    jobs = strategy.cluster_resolver.cluster_spec().as_dict()
    names = [f"{job} {index}" for job in JOBS for index in range(len(jobs.get(job, ())))]
    return names or ["this host"]  # a strategy made without TF_CONFIG


def sum_over_replicas(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the sum of a number over all replicas; hosts may give different numbers. Waits for all hosts."""
    if count_hosts(strategy) == 1:
        return value * strategy.num_replicas_in_sync
    return int(make_sum(strategy)(tf.constant(value)))


@functools.cache
def make_sum(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the one function of a strategy that sums a tensor over all replicas.

    TensorFlow traces each new function, which takes time and memory.
    """

    @tf.function
    def sum_tensor(value):
        return strategy.reduce("sum", strategy.run(tf.identity, args=(value,)), axis=None)

    return sum_tensor


def gather_texts(strategy: tf.distribute.Strategy, text: str) -> list[str]:
    """Returns the texts that the hosts give, up to `TEXT_BYTES` of each, the chief's first. Waits for all hosts.

    Raises:
        ValueError: the hosts have different clusters in TF_CONFIG, or different numbers of devices.
    """
    names = _host_names(strategy)
    if len(names) == 1:
        return [text]
    resolver = strategy.cluster_resolver
    row = names.index(f"{resolver.task_type} {resolver.task_id}")
    content = np.frombuffer(text.encode()[:TEXT_BYTES], "uint8")
    table: np.ndarray = np.zeros((len(names), TEXT_BYTES), "int32")
    table[row, : len(content)] = content
    try:
        total = make_sum(strategy)(tf.constant(table)).numpy()
    except (tf.errors.InternalError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            "All hosts must have the same `cluster` in TF_CONFIG, and the same number of devices. TensorFlow says: "
            f"{error.message.splitlines()[0][-200:]}"
        ) from error
    total //= strategy.num_replicas_in_sync // len(names)  # each replica of a host adds its text
    return [bytes(line.astype("uint8")).rstrip(b"\0").decode(errors="ignore") for line in total]


def check_equal(strategy: tf.distribute.Strategy, values: Mapping[str, Any], hint: str) -> None:
    """Raises ValueError on all hosts, with the names and values that differ, unless all hosts give the same values.

    Args:
        strategy: of the hosts.
        values: names -> values with a `repr`.
        hint: what to do, for the message.
    """
    names = _host_names(strategy)
    texts = gather_texts(strategy, json.dumps({name: _shorten(repr(value)) for name, value in values.items()}))
    rows = [json.loads(text) for text in texts]
    every_name = {name: None for row in rows for name in row}
    differing = [name for name in every_name if len({row.get(name) for row in rows}) > 1]
    if differing:
        descriptions = (f"{name} is {_describe([row.get(name) for row in rows], names)}" for name in differing)
        raise ValueError(f"All hosts must train alike, but they differ: {'; '.join(descriptions)}. {hint}")


def _shorten(text):
    """Returns a text, or if it is long its beginning and a digest of all of it."""
    return text if len(text) <= 60 else f"{text[:40]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _describe(values, names):
    """Returns each value with the hosts that have it, in words."""
    hosts: dict[str, list[str]] = {}
    for value, name in zip(values, names, strict=True):
        hosts.setdefault(str(value), []).append(name)
    lists = {value: ", ".join(each[:3]) + ", ..." * (len(each) > 3) for value, each in hosts.items()}
    return " and ".join(f"{value} on {each}" for value, each in lists.items())


@contextlib.contextmanager
def failing_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Raises on all hosts if the block fails on one. The block must not wait for other hosts.

    Raises:
        RuntimeError: the block failed on another host.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    messages = gather_texts(strategy, " ".join(f"{failure}".split()) or "an error" if failure else "")
    if failure:
        raise failure
    for name, message in zip(_host_names(strategy), messages, strict=True):
        if message:
            raise RuntimeError(f"The run stops on all hosts, because {name} failed: {message}")


def broadcast_from_chief(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns, on all hosts, the number that the first host gives."""
    total = sum_over_replicas(strategy, value if is_chief(strategy) else 0)
    return total * count_hosts(strategy) // strategy.num_replicas_in_sync


def check_shared(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Raises ValueError on all hosts if they do not share the folder."""
    if count_hosts(strategy) == 1:
        return
    marker = folder / f".hosts-{broadcast_from_chief(strategy, secrets.randbits(16))}"
    if is_chief(strategy):
        folder.mkdir(parents=True, exist_ok=True)
        marker.touch()
    sum_over_replicas(strategy, 0)  # waits until the marker is written
    missing = sum_over_replicas(strategy, int(not marker.exists()))
    if is_chief(strategy):
        marker.unlink()
    if missing:
        raise ValueError(f"{folder} is not the same folder on all hosts. `model_dir` must be one that they share.")
