"""What a run tells its user: what it will do, the progress of its training, and each evaluation."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from keras_efficientnet import console
from keras_efficientnet.config import TOP, TrainConfig
from keras_efficientnet.datasets import Data
from keras_efficientnet.profiling import profile
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.devices import count_hosts
from keras_efficientnet.training.state import TrainState

LOGGER = logging.getLogger(__name__)


def log_run(state: TrainState, data: Data) -> None:
    """Logs what a run will do: network, data, devices, length and folder, a line each."""
    config, variant = state.config, state.variant
    parameters = profile(variant, classes=data.classes).parameters
    splits = (("to train on", data.train_images if config.mode != "eval" else 0), ("to evaluate on", data.valid_images))
    rows = {
        "network": f"{config.model_name}, {parameters:,} parameters, {data.classes:,} classes, "
        f"images of {variant.resolution} x {variant.resolution} pixels",
        "data": f"{name_data(config)}, {', '.join(f'{count:,} images {use}' for use, count in splits if count)}",
        "devices": describe_devices(state.strategy),
        "length": _describe_length(state) if config.mode != "eval" else "",
        "folder": f"{config.directory}/",
    }
    LOGGER.info("\n".join(f"{name:9}{text}" for name, text in rows.items() if text))


def name_data(config: TrainConfig) -> str:
    """Returns the kind of the data and the folder they are in."""
    kind = config.dataset or ("records" if config.data_dir else "sample")
    return f"{kind} in {config.data_dir}" if config.data_dir else kind


def describe_devices(strategy: tf.distribute.Strategy) -> str:
    """Returns the number and kind of the devices, and of the hosts if there are several: "8 GPUs on 2 hosts"."""
    replicas, hosts = strategy.num_replicas_in_sync, count_hosts(strategy)
    is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    kind = "TPU core" if is_tpu else "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    if kind == "CPU" and console.has_gpu() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        LOGGER.warning("TensorFlow cannot use the GPU of this machine. --verbosity=1 shows why.")
    return f"{replicas} {kind}{'s' if replicas > 1 else ''}" + (f" on {hosts} hosts" if hosts > 1 else "")


def _describe_length(state):
    config = state.config
    done = f"; {state.step:,} steps are done" if state.step else ""
    epochs = config.train_steps / state.steps_per_epoch
    return f"{config.train_steps:,} steps of {config.train_batch_size:,} images, {epochs:,.1f} epochs{done}"


def log_export(folder: RunFolder) -> None:
    """Logs that the network is being exported, which takes longer than an evaluation."""
    paths = (folder.model, folder.saved_model, folder.tflite)
    LOGGER.info(f"exporting {', '.join(path.name for path in paths)}, and comparing them with the network")


def log_evaluation(rows: Sequence[Mapping[str, Any]], classes: int) -> None:
    """Logs the scores of the latest evaluation, and the best top-1 so far.

    Args:
        rows: `step` and scores of each evaluation, oldest first.
        classes: number of classes; up to five, the top-5 accuracy says nothing.
    """
    row, best = rows[-1], max(rows, key=lambda row: row["top_1_accuracy"])  # the first of equal ones
    top_5 = f", top-5 {100 * row['top_5_accuracy']:.2f}%" if classes > TOP else ""
    scores = f"top-1 {100 * row['top_1_accuracy']:.2f}%{top_5}, loss {row['loss']:.3f}"
    LOGGER.info(
        f"step {row['step']}: {scores}; best top-1 so far {100 * best['top_1_accuracy']:.2f}% at step {best['step']}"
    )


def make_progress_bar(state: TrainState, shows: bool) -> tqdm:
    """Returns a progress bar in images; until `show_step`, it explains why nothing moves.

    Args:
        state: the state of the run, at the step where it starts.
        shows: whether this process shows the bar.
    """
    config, step = state.config, state.step
    return tqdm(
        total=config.train_steps * config.train_batch_size,
        initial=step * config.train_batch_size,
        unit="image",
        unit_scale=True,
        desc="building the graph, which takes a minute",
        disable=step >= config.train_steps or not shows,
    )


def show_step(bar: tqdm, images: int, **values: Any) -> None:
    """Advances a progress bar by `images`, with `values` behind it."""
    bar.set_description("training", refresh=False)
    bar.set_postfix(values, refresh=False)
    bar.update(images)
