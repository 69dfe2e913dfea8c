"""Shared by all tests: environment, two logical CPU devices, a tiny network, golden numbers, fresh interpreters."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # read when TensorFlow is imported
# oneDNN is on by itself on some processors only: off, tests compute the same on all, and small graphs start sooner
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# the user's proxy does not reach the servers that tests start here
os.environ.update(NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost")
# tests choose the backend, and give folders of their own to what downloads
os.environ.pop("KERAS_BACKEND", None)
os.environ.pop("HF_HUB_CACHE", None)
os.environ.pop("HF_HUB_OFFLINE", None)

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.runs import SHORT, know_short_network, skip_graph_optimizers

from keras_efficientnet.architectures import STAGES, Variant

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
SAMPLE = ROOT / "keras_efficientnet/data/sample"
TINY = SHORT._replace(width=0.25, depth=0.5, resolution=32)

# Few tests that take long: a process that gets them last runs alone
FIRST = ("test_hosts.py", "test_main.py", "test_training.py", "test_backends.py")


def pytest_configure(config):
    """Prepares the processes that run tests: with `-n 2` the first one only hands them out."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        prepare_process()


def prepare_process():
    import keras
    import tensorflow as tf

    # two replicas for tf.distribute.MirroredStrategy; must come before anything touches a device
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # Most of the time goes into building graphs of networks that run for milliseconds:
    gc.freeze()  # the imports' objects are never garbage
    gc.set_threshold(100_000, 50, 100)  # graphs are many objects, which Keras's default threshold of 700 visits often
    keras.config.disable_traceback_filtering()
    tf.debugging.disable_traceback_filtering()
    skip_graph_optimizers()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session")
def tiny() -> Variant:
    """A network of every kind of block that runs in milliseconds at 32 px."""
    return TINY


@pytest.fixture(scope="session")
def tiny_b0() -> Variant:
    """B0's seven stages, for tests that need its layers or its strides."""
    return TINY._replace(stages=STAGES)


@pytest.fixture(scope="module")
def short_network():
    """Lets the options SMALL name their network."""
    with know_short_network():
        yield


@pytest.fixture(scope="session")
def golden():
    """Reads `tests/golden/NAME.json`, or `.npz` if the name says so."""

    def read(name: str):
        return np.load(GOLDEN / name) if name.endswith(".npz") else json.loads((GOLDEN / f"{name}.json").read_text())

    return read


@pytest.fixture(scope="session")
def run_python():
    """Runs code in a fresh interpreter and returns what it prints."""

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def zero_kernels():
    """Networks start with kernels of zeros: random values cost time, and most tests replace them at once."""
    import keras

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", keras.initializers.Zeros.__call__)
        yield


@pytest.fixture(autouse=True)
def free_large_networks(request):
    """Networks are reference cycles; those of slow tests take up to gigabytes."""
    yield
    if request.node.get_closest_marker("slow"):
        free_memory()


@pytest.fixture(scope="module", autouse=True)
def free_networks():
    """The graphs of a module's networks take hundreds of megabytes, of which the next module needs none.

    What a module leaves, caches mostly, stays to the end: frozen, the next collections do not visit it.
    """
    yield
    free_memory()
    gc.freeze()


def free_memory():
    """Collects garbage, and returns the memory to the system where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


@pytest.fixture
def set_policy():
    """Sets the policy of mixed precision for one test."""
    import keras

    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)
