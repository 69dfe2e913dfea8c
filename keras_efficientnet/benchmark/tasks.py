"""What takes time besides calling an exported file: training, inference in TensorFlow, building, loading, importing.

Each task opens as a file does, as a `Network` whose calls are timed, in a process of its own. TensorFlow is imported
when a task opens, after `tune_cpu`.
"""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.runtimes.networks import Network, start_tensorflow
from keras_efficientnet.runtimes.timing import Candidate

if TYPE_CHECKING:
    import keras

NOTHING = (1, 1, 1, 1)  # the images of tasks that take none
TUNED = "tuned"  # ending of the formats that `tune_cpu` prepares


def train(name: str, threads: int, batch: int) -> Network:
    """Opens a training step in float32: ours is the official recipe's, the peer's that of `fit` with RMSprop."""
    tf = start_tensorflow(threads)
    import keras

    labels: np.ndarray = np.arange(batch, dtype="int32")
    if name not in VARIANTS:
        model = build_network(name)
        optimizer = keras.optimizers.RMSprop(1e-4, rho=0.9, momentum=0.9, epsilon=1e-3)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy())
        return Network(lambda images: np.asarray(model.train_on_batch(images, labels)), _shape(model, batch), "float32")
    from keras_efficientnet.recipes import make_config
    from keras_efficientnet.training.devices import make_strategy
    from keras_efficientnet.training.state import TrainState
    from keras_efficientnet.training.steps import make_replica_step

    images_per_epoch = 1_281_167
    config = make_config(model_name=name, train_batch_size=batch, num_label_classes=1000, train_steps=1000)
    strategy = make_strategy(config)
    with strategy.scope():
        state = TrainState(config, VARIANTS[name], images_per_epoch, strategy)
    step = make_replica_step(state)
    graph = tf.function(lambda images: strategy.run(step, args=(images, tf.constant(labels))))
    return Network(
        lambda images: graph(tf.constant(images)).numpy(),
        _shape(state.model, batch, VARIANTS[name].resolution),
        "float32",
    )


def infer(name: str, threads: int, batch: int) -> Network:
    """Opens a network as a TensorFlow graph for a batch of images."""
    tf = start_tensorflow(threads)
    model = build_network(name)
    shape = _shape(model, batch)
    graph = tf.function(lambda images: model(images, training=False), input_signature=[tf.TensorSpec(shape)])
    return Network(lambda images: graph(tf.constant(images)).numpy(), shape, "float32")


def build(name: str, threads: int) -> Network:
    """Opens the building of a network with random weights."""
    start_tensorflow(threads)
    return Network(lambda _: _free(build_network(name)), NOTHING, "float32")


def load(name: str, threads: int) -> Network:
    """Opens the loading of a `.keras` file."""
    start_tensorflow(threads)
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.keras")
        build_network(name).save(path)
        content = path.read_bytes()

    def call(_):  # the file is written anew, as a process that only ends with its measurement leaves its files
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.keras")
            path.write_bytes(content)
            return _free(keras.saving.load_model(path))

    return Network(call, NOTHING, "float32")


def start(name: str, threads: int) -> Network:
    """Opens the import of Keras in a new process, with our package where the network is ours."""
    package = "keras, keras_efficientnet.models" if name in VARIANTS else "keras"
    command = [sys.executable, "-c", f"import {package}"]
    return Network(lambda _: np.asarray(subprocess.run(command, check=True).returncode), NOTHING, "float32")


class Task(NamedTuple):
    """A task in the table."""

    open: Callable[..., Network]
    batch_sizes: Sequence[int | None]  # images of a call; None where it takes none
    settings: Sequence[bool] = (False, True)  # whether it is timed with `tune_cpu`


# fmt: off
TASKS = {
    "training":  Task(train, (32,)),
    "inference": Task(infer, (1, 8, 32)),
    "build":     Task(build, (None,)),
    "load":      Task(load,  (None,)),
    "import":    Task(start, (None,), settings=(False,)),
}
# fmt: on


def check_tasks(tasks: Sequence[str], batch_sizes: Sequence[int], *, processor_time: bool = False) -> None:
    """Raises ValueError if a task is unknown, or cannot be timed in this way.

    Args:
        tasks: keys of `TASKS`.
        batch_sizes: as given by the user.
        processor_time: whether processor time is measured.
    """
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"Unknown task {task!r}. Choose from: {', '.join(TASKS)}")
    if batch_sizes and not tasks:
        raise ValueError("`batch_sizes` are those of `tasks`. Give tasks: training or inference.")
    if any(size < 1 for size in batch_sizes):
        raise ValueError(f"`batch_sizes` must be at least 1. Received: {list(batch_sizes)}")
    if processor_time and "import" in tasks:
        raise ValueError("`import` runs in a process of its own, whose processor time cannot be measured here.")


def make_candidates(
    tasks: Sequence[str],
    names: Sequence[str],
    *,
    batch_sizes: Sequence[int] = (),
    threads: int,
) -> list[Candidate]:
    """Returns each task with each network, as TensorFlow comes and with `tune_cpu`, to be timed.

    Args:
        tasks: keys of `TASKS`.
        names: networks of this package and of keras.applications.
        batch_sizes: images of a call; by default those of `TASKS`.
        threads: the cores of each process.
    """
    candidates = []
    for task in tasks:
        row = TASKS[task]
        for batch in batch_sizes if batch_sizes and None not in row.batch_sizes else row.batch_sizes:
            opener = row.open if batch is None else functools.partial(row.open, batch=batch)
            name = task if batch is None else f"{task}-{batch}"
            candidates += [
                Candidate(
                    model=network,
                    format=f"{name}-{TUNED}" if tuned else name,
                    runtime=opener,
                    path=network,
                    threads=threads,
                    tuned=tuned,
                )
                for tuned in row.settings
                for network in names
            ]
    return candidates


def build_network(name: str) -> "keras.Model":
    """Builds a network of this package or of keras.applications, with random weights."""
    from keras_efficientnet.benchmark.candidates import find_peer
    from keras_efficientnet.models import create_model

    return create_model(name) if name in VARIANTS else find_peer(name)()


def _free(model: "keras.Model") -> np.ndarray:
    """Releases a network, as the next one would be built in a new process."""
    import keras

    parameters = model.count_params()
    del model
    keras.backend.clear_session()
    return np.asarray(parameters)


def _shape(model, batch: int, size: int = 224) -> tuple[int, ...]:
    _, height, width, channels = model.input_shape
    return batch, height or size, width or size, channels
