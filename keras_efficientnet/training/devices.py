"""Where a run trains: the strategy for a TPU, several hosts, several GPUs or one device."""

import functools
import logging
import os
import secrets
from pathlib import Path

import tensorflow as tf

from keras_efficientnet.config import TrainConfig


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """A TPU by name; the hosts of TF_CONFIG; several GPUs or logical CPUs; else what TensorFlow takes itself.

    Several hosts are the environment variable TF_CONFIG of tf.distribute.MultiWorkerMirroredStrategy, on each of them:
    {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.

    Raises:
        ValueError: there is no such TPU, there are too few devices, or a batch does not divide by their number.
    """
    if config.tpu is not None:
        strategy = _make_tpu_strategy(config.tpu, config.tpu_zone, config.gcp_project)
    elif os.environ.get("TF_CONFIG"):
        if config.num_replicas:
            raise ValueError(
                "With TF_CONFIG each host takes all of its devices. Leave `num_replicas` out, or unset it."
            )
        strategy = _make_worker_strategy()
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        wanted = config.num_replicas or (len(devices) if devices[0].device_type == "GPU" else 1)
        if wanted > len(devices):
            raise ValueError(f"`num_replicas` is {wanted}, but there are {len(devices)} {devices[0].device_type}s.")
        names = tuple(device.name for device in devices[:wanted])
        strategy = _make_mirrored_strategy(names) if wanted > 1 else tf.distribute.get_strategy()
    _check_batches(config, strategy.num_replicas_in_sync)
    if config.mode == "eval" and hosts(strategy) > 1:
        raise ValueError("`mode=eval` is for one host. Unset TF_CONFIG; it may run beside the training hosts.")
    return strategy


def _check_batches(config, replicas):
    parts = {"train_batch_size": config.accumulate_steps, "eval_batch_size": 1}
    for name, count in parts.items():
        if getattr(config, name) % (replicas * count):
            in_parts = f", each in {count} parts" if count > 1 else ""
            raise ValueError(
                f"`{name}` must be a multiple of the {replicas} replicas{in_parts}. "
                f"Received: {name}={getattr(config, name)}"
            )


@functools.cache
def _make_mirrored_strategy(names):
    """One for the same devices in a process: the sums of a second one would be taken for those of the first."""
    return tf.distribute.MirroredStrategy(names)


@functools.cache
def _make_worker_strategy():
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # else a line for each of hundreds of sums
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError) as error:
        raise ValueError(f"TF_CONFIG is not what TensorFlow wants: {error}. Check it, or unset it.") from error


def _make_tpu_strategy(tpu, zone, project):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu, zone, project)
    except (ValueError, tf.errors.OpError, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:150]
        raise ValueError(f"There is no TPU {tpu!r}: {reason}. Check `tpu`, or leave it out for GPUs or CPU.") from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes: the one there is, or the first of several hosts."""
    resolver = strategy.cluster_resolver
    if not hosts(strategy) > 1:
        return True
    return resolver.task_type in (None, "chief") or (resolver.task_type == "worker" and resolver.task_id == 0)


def hosts(strategy: tf.distribute.Strategy) -> int:
    """The processes that train together."""
    return strategy.extended._num_workers if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else 1


def total(strategy: tf.distribute.Strategy, value: int) -> int:
    """The sum of a number over all replicas, where each host may give another; waits until all hosts are here."""
    if hosts(strategy) == 1:
        return value * strategy.num_replicas_in_sync
    return int(strategy.reduce("sum", strategy.run(tf.function(lambda: tf.constant(value))), axis=None))


def from_chief(strategy: tf.distribute.Strategy, value: int) -> int:
    """The number that the first host gives, on all hosts."""
    return total(strategy, value if is_chief(strategy) else 0) * hosts(strategy) // strategy.num_replicas_in_sync


def check_shared(strategy: tf.distribute.Strategy, folder: Path) -> None:
    """Raises ValueError, on all hosts, where they do not all see the same folder."""
    if hosts(strategy) == 1:
        return
    mark = folder / f".hosts-{from_chief(strategy, secrets.randbits(16))}"
    if is_chief(strategy):
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    total(strategy, 0)  # it is there now
    strangers = total(strategy, int(not mark.exists()))
    if is_chief(strategy):
        mark.unlink()
    if strangers:
        raise ValueError(f"{folder} is not the same folder on all hosts. `model_dir` must be one that they share.")
