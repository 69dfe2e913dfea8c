"""Writes a model as OpenVINO's pair of files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_efficientnet.export.agreement import check_exact, name_outputs
from keras_efficientnet.export.folding import inference_copy
from keras_efficientnet.export.preparation import (
    check_labels,
    check_model,
    check_precision,
    collect_variables,
    make_serving_function,
    suppress_info_logs,
)
from keras_efficientnet.files import replacing
from keras_efficientnet.runtimes.networks import import_package, load_openvino

XML = "model.xml"
FILES = {XML, "model.bin"}


def to_openvino(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    float16: bool = False,
    overwrite: bool = False,
) -> float:
    """Writes a folder with OpenVINO's files `model.xml` and `model.bin`; complete or not at all.

    The network takes `inputs`, pixels [batch, height, width, channels] from 0 to 255, and gives `probabilities`,
    `features` or `outputs` [batch, n]: see `name_outputs`.

    Args:
        model: a classifier of images, or another model that gives a row of numbers for each.
        path: folder to write.
        labels: class names in order. They are stored where OpenVINO's Model API reads them, in the network's `rt_info`
            as "model_info", "labels": separated by spaces, with underscores in place of spaces within a name.
        dynamic_batch: whether a call takes any number of images instead of one.
        float16: whether to store the weights in half the size.
        overwrite: whether to replace existing OpenVINO files.

    Returns:
        The largest difference of an output, computed in float32, from the model's on random images.

    Raises:
        FileExistsError, ImportError, ValueError, RuntimeError: see `to_onnx`. `path` must not end in .xml or .bin.

    Example:
        >>> import os, tempfile, keras
        >>> layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10, "softmax")]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        >>> to_openvino(model, os.path.join(tempfile.mkdtemp(), "small")) < 1e-4
        True
    """
    check_model(model)
    check_labels(model, labels)
    check_precision(model, "OpenVINO's network")
    if Path(path).suffix in (".xml", ".bin"):
        raise ValueError(f"OpenVINO's network is two files: give the folder to write them to. Received: {path}")
    openvino = import_package("openvino")
    with replacing(path, overwrite, is_ours=is_openvino) as new, suppress_info_logs():
        graph = new.with_name("graph")  # in the temporary folder, which is removed
        _save_graph(model, graph, None if dynamic_batch else 1)
        network = openvino.Core().read_model(graph)  # openvino.convert_model does the same, and sends Intel statistics
        _describe(network, model, labels)
        new.mkdir()
        openvino.save_model(network, new / XML, compress_to_fp16=float16)
        return check_exact(model, load_openvino(new), "OpenVINO network")


def is_openvino(path: Path) -> bool:
    """Returns whether a folder is empty or has OpenVINO's two files and no others."""
    return path.is_dir() and {file.name for file in path.iterdir()} in (set(), FILES)


def _save_graph(model, path, batch_size):
    try:
        with inference_copy(model) as network:
            holder = collect_variables(network)
            holder.serve = make_serving_function(network, batch_size, name_outputs(model))
            tf.saved_model.save(holder, os.fspath(path), signatures={"serving_default": holder.serve})
    except tf.errors.OpError as error:  # for example a full disk
        raise OSError(f"TensorFlow could not write the network's graph: {error.message}") from error


def _describe(network: Any, model, labels):
    if labels is not None or name_outputs(model) == "probabilities":
        network.set_rt_info("Classification", ["model_info", "model_type"])
    if labels is not None:
        network.set_rt_info(" ".join("_".join(label.split()) for label in labels), ["model_info", "labels"])
