"""Devices of a run: makes the strategy for a TPU, several hosts, several GPUs or one device; sums over hosts."""

import functools
import logging
import os
import secrets
from pathlib import Path

import tensorflow as tf

from keras_efficientnet.config import TrainConfig


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """Returns a strategy for the TPU of `config`, the hosts of TF_CONFIG, several GPUs or logical CPUs, or one device.

    Several hosts each set the environment variable TF_CONFIG of tf.distribute.MultiWorkerMirroredStrategy:
    {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.

    Raises:
        ValueError: the TPU does not exist, there are too few devices, or a batch cannot be split over them.
    """
    if config.tpu is not None:
        strategy = _make_tpu_strategy(config.tpu, config.tpu_zone, config.gcp_project)
    elif os.environ.get("TF_CONFIG"):
        if config.num_replicas:
            raise ValueError("With TF_CONFIG each host uses all of its devices. Leave `num_replicas` out, or unset it.")
        strategy = _make_worker_strategy()
    else:
        strategy = _make_local_strategy(config.num_replicas)
    _check_batches(config, strategy.num_replicas_in_sync)
    if config.mode == "eval" and count_hosts(strategy) > 1:
        raise ValueError("`mode=eval` runs on one host, if need be beside the training hosts. Unset TF_CONFIG.")
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
def _make_worker_strategy():
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # at INFO it logs a line for each of hundreds of sums
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError) as error:
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
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()  # empty if TF_CONFIG names no cluster
    names = ("evaluator",) if resolver.task_type == "evaluator" else ("chief", "worker")
    return sum(len(jobs.get(name, ())) for name in names) or 1


def sum_over_replicas(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the sum of a number over all replicas; hosts may give different numbers. Waits for all hosts."""
    if count_hosts(strategy) == 1:
        return value * strategy.num_replicas_in_sync
    return int(strategy.reduce("sum", strategy.run(tf.function(lambda: tf.constant(value))), axis=None))


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
