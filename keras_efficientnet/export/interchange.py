"""A model -> an ONNX file or OpenVINO's pair of files; and back, to call it."""

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.export.agreement import Classifier, compare
from keras_efficientnet.export.folding import folded
from keras_efficientnet.export.preparation import (
    check_labels,
    check_model,
    check_precision,
    hold,
    hold_constants,
    quietly,
)
from keras_efficientnet.files import is_single_model, replacing
from keras_efficientnet.layers import summed_experts
from keras_efficientnet.runtimes import openers

OPSET = 17  # of ONNX's operations: the first runtime to know it, ONNX Runtime 1.12, is of 2022
OPENVINO_FILES = {"model.xml", "model.bin"}


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    overwrite: bool = False,
) -> float:
    """Writes an ONNX file: float32, operations of ONNX's own set alone.

    It takes `inputs`, pixels [batch, height, width, channels] from 0 to 255, and gives `probabilities`
    [batch, classes]. Either the whole file comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier of images.
        path: of the file to write.
        labels: names of the classes, in order; they go into the file's metadata, as "labels", one a line.
        dynamic_batch: whether a call takes any number of images in place of one.
        overwrite: whether to replace a file that is there.

    Returns:
        The largest difference between a probability of the file, in ONNX Runtime, and the model's, on a few random
        images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no file.
        ImportError: onnx, onnxruntime or tf2onnx is not installed.
        ValueError: the model gives no probabilities from images, or computes in mixed precision, or the labels do not
            fit it.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    _check(model, labels, "An ONNX file")
    onnx, tf2onnx = _need("onnx"), _need("tf2onnx")
    _need("onnxruntime")
    with replacing(path, overwrite, is_ours=is_single_model) as new, quietly():
        proto = _convert(tf2onnx, model, dynamic_batch)
        _describe(onnx, proto, model, labels)
        _check_operations(onnx, proto, model)
        onnx.save(proto, new)
        return compare(model, load_onnx(new), "ONNX file")


def load_onnx(path: str | os.PathLike[str], threads: int = 2) -> Classifier:
    """Loads an ONNX file in ONNX Runtime, as a function from images to probabilities."""
    _need("onnxruntime")
    return _classifier(openers.open_onnx(os.fspath(path), threads))


def to_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    float16: bool = False,
    overwrite: bool = False,
) -> float:
    """Writes a folder with OpenVINO's two files, `model.xml` and `model.bin`.

    The network takes `inputs`, pixels [batch, height, width, channels] from 0 to 255, and gives `probabilities`
    [batch, classes]. Either the whole folder comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier of images.
        path: of the folder to write.
        labels: names of the classes, in order. They go where OpenVINO's Model API looks for them, in the network's
            `rt_info`: "model_info", "labels", with spaces between them and underscores in place of their own.
        dynamic_batch: whether a call takes any number of images in place of one.
        float16: whether to store the weights in half the size.
        overwrite: whether to replace OpenVINO's files that are there.

    Returns:
        The largest difference between a probability in OpenVINO, computed in float32, and the model's, on a few random
        images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no folder of these two files.
        ImportError: openvino is not installed.
        ValueError: the path ends in .xml, the model gives no probabilities from images, or computes in mixed precision,
            or the labels do not fit it.
        RuntimeError: OpenVINO gives other probabilities than the model, or some are not finite.
    """
    _check(model, labels, "OpenVINO's network")
    if Path(path).suffix in (".xml", ".bin"):
        raise ValueError(f"OpenVINO's network is two files: give the folder to write them to. Received: {path}")
    openvino = _need("openvino")
    with replacing(path, overwrite, is_ours=is_openvino) as new, quietly():
        graph = new.with_name("graph")  # beside it: vanishes with the folder for unfinished things
        _save_graph(model, graph, dynamic_batch)
        network = openvino.Core().read_model(graph)  # openvino.convert_model does the same, and tells Intel of it
        _inform(network, labels)
        new.mkdir()
        openvino.save_model(network, new / "model.xml", compress_to_fp16=float16)
        return compare(model, load_openvino(new), "OpenVINO network")


def load_openvino(path: str | os.PathLike[str], threads: int = 2) -> Classifier:
    """Loads a folder that `to_openvino` wrote, or an .xml file, as a function from images to probabilities.

    It computes in float32: of itself OpenVINO takes bfloat16 where the processor has it.
    """
    _need("openvino")
    return _classifier(openers.open_openvino(os.fspath(path), threads))


def is_openvino(path: Path) -> bool:
    """Whether there is a folder of OpenVINO's two files and no other, or an empty one."""
    return path.is_dir() and {file.name for file in path.iterdir()} in (set(), OPENVINO_FILES)


def _check(model, labels, what):
    check_model(model)
    check_labels(model, labels)
    check_precision(model, what)


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'This needs the package {name}: pip install "keras_efficientnet[export]"') from error


def _serve(model, dynamic_batch):
    """The model as a function of TensorFlow, {"probabilities": ...} of `inputs`, and what that takes."""
    spec = tf.TensorSpec((None if dynamic_batch else 1, *model.input_shape[1:]), tf.float32, name="inputs")
    return tf.function(lambda inputs: {"probabilities": model(inputs, training=False)}, input_signature=[spec]), spec


@summed_experts()
def _convert(tf2onnx, model, dynamic_batch):
    with folded(model) as network, _silenced("tensorflow", "tf2onnx"):  # of what it itself calls that is deprecated
        hold_constants(network)
        serve, spec = _serve(network, dynamic_batch)
        proto, _ = tf2onnx.convert.from_function(serve, [spec], opset=OPSET)
    return proto


def _save_graph(model, path, dynamic_batch):
    form = summed_experts() if dynamic_batch else contextlib.nullcontext()
    try:
        with form, folded(model) as network:
            holder = hold(network)
            holder.serve, _ = _serve(network, dynamic_batch)
            tf.saved_model.save(holder, os.fspath(path), signatures={"serving_default": holder.serve})
    except tf.errors.OpError as error:  # a full disk, for example
        raise OSError(f"TensorFlow could not write the network's graph: {error.message}") from error


def _check_operations(onnx, proto, model):
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{model.name} cannot be converted to ONNX: {reason}") from error


def _describe(onnx, proto, model, labels):
    """Names the number of images `batch` throughout, and notes what comes in, what goes out, and the labels."""
    for value in (*proto.graph.input, *proto.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if not first.HasField("dim_value"):
            first.dim_param = "batch"
    proto.graph.name = model.name
    proto.doc_string = "`inputs`: pixels from 0 to 255, [batch, height, width, channels]. `probabilities`: of classes."
    if labels is not None:
        onnx.helper.set_model_props(proto, {"labels": "\n".join(labels)})


def _inform(network: Any, labels):
    network.set_rt_info("Classification", ["model_info", "model_type"])
    if labels is not None:
        network.set_rt_info(" ".join("_".join(label.split()) for label in labels), ["model_info", "labels"])


def _classifier(network: openers.Network) -> Classifier:
    def classify(images):
        images = np.asarray(images, network.dtype)
        if network.shape[0] is None:
            return network.call(images)
        return np.concatenate([network.call(images[place : place + 1]) for place in range(len(images))])

    return classify


@contextlib.contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Keeps these loggers from warning."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
