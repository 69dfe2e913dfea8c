"""Small training runs for the tests: tiny networks, fixed data, and main.py in this process or in a new one.

As a script, it calls main.py once for each dictionary of options in a JSON list, and knows the network of SMALL.
"""

import contextlib
import functools
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from absl.testing import flagsaver

import main
from keras_efficientnet.architectures import STAGES, VARIANTS

ROOT = Path(main.__file__).parent
# At half its depth it has three blocks, one of each kind: without expansion, with a stride, with a shortcut. Tracing it
# takes a third of the time of B0
SHORT = VARIANTS["efficientnet-b0"]._replace(stages=(STAGES[0], STAGES[2]._replace(repeats=4)))
TINY = {"width_coefficient": 0.25, "depth_coefficient": 0.5, "input_image_size": 32}
SMALL = TINY | {
    "model_name": "efficientnet-short",  # known where the fixture `short_network` is used, and to `start_mains`
    "train_batch_size": 16,
    "eval_batch_size": 100,
    "iterations_per_loop": 3,
    "export": False,
}
REPLICAS = SMALL | {"train_batch_size": 32}


class Finished(NamedTuple):
    """Exit status and output of main.py."""

    status: int
    out: str
    err: str


def know_short_network():
    """Returns a context in which SMALL's network is known by its name."""
    return mock.patch.dict(VARIANTS, {"efficientnet-short": SHORT})


def skip_graph_optimizers():
    """Turns off what TensorFlow does to a graph before it runs: for graphs that run a few times, it takes longer.

    Results then differ in the last bits. main.py in a process of its own has them on.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def to_flags(options):
    """Returns options as flags of main.py."""
    return [f"--{name}={value}" for name, value in options.items()]


def run_main(**options) -> Finished:
    """Calls main.py in this process, as a user would call it with these options."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = _call_main(options)
    return Finished(status, out.getvalue(), err.getvalue())


def _call_main(options):
    """Returns the exit status; prints the message of `sys.exit(message)` to stderr, as Python does."""
    with flagsaver.flagsaver():
        try:
            main.main(main.parse_flags(["main.py", *to_flags(options)]))
        except SystemExit as exit:
            if isinstance(exit.code, str):
                print(exit.code, file=sys.stderr)
                return 1
            return exit.code or 0
    raise AssertionError("main.main must end with sys.exit")


def free_ports(count):
    """Returns ports of this machine that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_main(log, **options) -> subprocess.Popen:
    """Starts main.py as a user does, in a process of its own that writes all output to the file `log`."""
    return _start(log, [str(ROOT / "main.py"), *to_flags(options)], TF_ENABLE_ONEDNN_OPTS=None)


def start_mains(log, calls, folder=None, **environment) -> subprocess.Popen:
    """Starts a process, in a working folder, that calls main.py once for each dictionary of options in `calls`."""
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return _start(log, ["-m", "support.runs", json.dumps(calls, default=str)], folder, **environment)


def _start(log, arguments, folder=None, **environment):
    with open(log, "w") as file:
        command = [sys.executable, *arguments]
        variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
        return subprocess.Popen(command, stdout=file, stderr=file, cwd=folder, env=variables)


def checkpoint_values(folder):
    """Returns the name and the arrays of the latest checkpoint of a run, without its seconds of training."""
    import tensorflow as tf

    path = tf.train.latest_checkpoint(str(folder / "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if "/" in name and not name.startswith("seconds")]
    return Path(path).name, {name: reader.get_tensor(name) for name in names}


def checkpoint_names(folder):
    """Returns the file names of the complete checkpoints of a run, sorted."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*.index"))


@functools.cache
def fixed_data():
    """Returns 640 digits at 32 px, the same ones for any options."""
    import tensorflow as tf

    from keras_efficientnet.datasets import Data, make_datasets
    from keras_efficientnet.recipes import make_config

    variant = VARIANTS["efficientnet-b0"]._replace(resolution=32)  # the images of `TINY`
    images, labels = next(make_datasets(make_config(), variant).valid.repeat().batch(640).as_numpy_iterator())
    examples = tf.data.Dataset.from_tensor_slices((images, labels))
    return Data(lambda start, *shard: examples.skip(start).repeat(), 640, None, 0, None, classes=10)


def make_state(config):
    """Returns the state of a run, of a network with the first two stages only, so that it compiles in a second."""
    import keras

    from keras_efficientnet.training.devices import make_strategy
    from keras_efficientnet.training.state import TrainState, make_variant

    keras.utils.set_random_seed(1)
    strategy = make_strategy(config)
    with strategy.scope():
        return TrainState(config, make_variant(config)._replace(stages=STAGES[:2]), 640, strategy)


if __name__ == "__main__":
    skip_graph_optimizers()
    with know_short_network():
        for call in json.loads(sys.argv[1]):
            status = _call_main(call)
            print(f"exit status {status}", flush=True)
    sys.exit(status)
