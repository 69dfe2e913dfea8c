"""Where a run trains: the strategy for a TPU, several GPUs or one device."""

import functools

import tensorflow as tf

from keras_efficientnet.config import TrainConfig


def make_strategy(config: TrainConfig) -> tf.distribute.Strategy:
    """The devices to train on: a TPU by name, else several GPUs or logical CPUs, else what TensorFlow takes itself.

    Raises:
        ValueError: there is no such TPU, there are too few devices, or a batch does not divide by their number.
    """
    if config.tpu is not None:
        strategy = _make_tpu_strategy(config.tpu)
    else:
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        wanted = config.num_replicas or (len(devices) if devices[0].device_type == "GPU" else 1)
        if wanted > len(devices):
            raise ValueError(f"`num_replicas` is {wanted}, but there are {len(devices)} {devices[0].device_type}s.")
        names = tuple(device.name for device in devices[:wanted])
        strategy = _make_mirrored_strategy(names) if wanted > 1 else tf.distribute.get_strategy()
    for name in ("train_batch_size", "eval_batch_size"):
        if getattr(config, name) % strategy.num_replicas_in_sync:
            raise ValueError(
                f"`{name}` must be a multiple of the {strategy.num_replicas_in_sync} replicas. "
                f"Received: {name}={getattr(config, name)}"
            )
    return strategy


@functools.cache
def _make_mirrored_strategy(names):
    """One for the same devices in a process: the sums of a second one would be taken for those of the first."""
    return tf.distribute.MirroredStrategy(names)


def _make_tpu_strategy(tpu):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu)
    except (ValueError, tf.errors.OpError, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:150]
        raise ValueError(f"There is no TPU {tpu!r}: {reason}. Check `tpu`, or leave it out for GPUs or CPU.") from error
    return tf.distribute.TPUStrategy(resolver)
