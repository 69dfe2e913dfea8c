"""Freed memory stays in the process, and TensorFlow runs oneDNN's kernels; what the user has chosen stays."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import ROOT

import keras_efficientnet
from keras_efficientnet import cpu

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
here = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="tune_cpu does nothing on this machine: test_other_machines_are_left_alone",
)

START = """
import json, resource
import numpy as np
import keras_efficientnet
if TUNED:
    keras_efficientnet.tune_cpu()
import tensorflow as tf

images = np.ones((8, 512, 512, 8), "float32")  # 64 MB; glibc returns every allocation above 32 MB to the system
kernel = np.ones((3, 3, 8, 8), "float32")
"""
PAGE_FAULTS = """
inputs = tf.constant(images)
step = tf.function(lambda x: tf.reduce_sum(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))))

for _ in range(20):  # until every page of the grown heap has been used once
    step(inputs)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step(inputs)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
OPERATIONS = """
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    inputs = tf.compat.v1.placeholder_with_default(images, images.shape)
    outputs = tf.nn.relu(tf.nn.conv2d(inputs, kernel, 1, "SAME"))
    data = tf.compat.v1.RunMetadata()
    session.run(outputs, options=tf.compat.v1.RunOptions(output_partition_graphs=True), run_metadata=data)
print(json.dumps([node.op for graph in data.partition_graphs for node in graph.node]))
"""


def run(code, **environment):
    names = ("TF_ENABLE_ONEDNN_OPTS", "LD_PRELOAD", "GLIBC_TUNABLES", *environment)
    inherited = {name: value for name, value in os.environ.items() if name not in names and "MALLOC" not in name}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=inherited | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@here
@pytest.mark.parametrize(
    ("tuned", "least", "most"), [(True, 0, 500), pytest.param(False, 50_000, 500_000, marks=pytest.mark.slow)]
)
def test_a_step_has_no_page_faults(tuned, least, most):
    """A map of 64 MB in pages of 4 kB, five times; without oneDNN, with which TensorFlow keeps memory by itself."""
    if not tuned and HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text():
        pytest.skip("this system gives memory in pages of 2 MB")
    assert least <= run(START.replace("TUNED", str(tuned)) + PAGE_FAULTS, TF_ENABLE_ONEDNN_OPTS="0") <= most


@here
@pytest.mark.slow
def test_tensorflow_runs_onednn():
    assert any(name.startswith("_Mkl") for name in run(START.replace("TUNED", "True") + OPERATIONS))


WHAT = "import json, os, keras_efficientnet; print(json.dumps([keras_efficientnet.tune_cpu(), dict(os.environ)]))"


@here
@pytest.mark.parametrize(
    ("environment", "done"),
    [
        ({}, ["memory", "onednn"]),
        ({"TF_ENABLE_ONEDNN_OPTS": "1"}, ["memory", "onednn"]),
        ({"TF_ENABLE_ONEDNN_OPTS": "true"}, ["memory", "onednn"]),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, ["memory"]),
        ({"LD_PRELOAD": "libm.so.6"}, ["onednn"]),
        ({"MALLOC_TRIM_THRESHOLD_": "1"}, ["onednn"]),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, ["onednn"]),
        ({"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=600"}, ["memory", "onednn"]),
    ],
)
def test_what_the_environment_says_stays(environment, done):
    found, after = run(WHAT, **environment)
    assert found == done
    assert {name: after[name] for name in environment} == environment


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(cpu.sys, "platform", "darwin"),
        lambda patch: patch.setattr(cpu.sys, "platform", "win32"),
        lambda patch: patch.setattr(cpu.platform, "machine", lambda: "aarch64"),
        lambda patch: patch.setattr(cpu.platform, "libc_ver", lambda: ("", "")),  # of musl
    ],
    ids=["macos", "windows", "arm", "musl"],
)
def test_other_machines_are_left_alone(monkeypatch, change):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(cpu.ctypes, "CDLL", None)
    change(monkeypatch)
    assert keras_efficientnet.tune_cpu() == ()
    assert "TF_ENABLE_ONEDNN_OPTS" not in os.environ
