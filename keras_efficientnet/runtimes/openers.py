"""A file of any format, opened in its own runtime with so many threads; and a process of its own that times it.

Imports a runtime only for a file of its format: a process that times a TFLite file holds no TensorFlow.
"""

import contextlib
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Network(NamedTuple):
    call: Callable[[np.ndarray], np.ndarray]  # images [n, height, width, channels] -> probabilities [n, classes]
    shape: tuple[int | None, ...]  # of the images; None where any size will do
    dtype: str  # of the images


def open_keras(path: str, threads: int) -> Network:
    """A `.keras` file as a TensorFlow graph, for one image. To be called before TensorFlow computes anything."""
    tf = _start_tensorflow(threads)
    import keras

    import keras_efficientnet.layers  # noqa: F401  registers them

    model = keras.saving.load_model(path, compile=False)
    spec = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    graph = tf.function(lambda images: model(images, training=False), input_signature=[spec])
    return Network(lambda images: graph(images).numpy(), tuple(spec.shape), "float32")


def open_saved_model(path: str, threads: int) -> Network:
    """The signature `serving_default` of a SavedModel. To be called before TensorFlow computes anything."""
    tf = _start_tensorflow(threads)
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    [(name, spec)] = serve.structured_input_signature[1].items()
    outputs = serve.structured_outputs
    probabilities = "probabilities" if "probabilities" in outputs else next(iter(outputs))

    def call(images, loaded=loaded):  # which holds the variables
        return serve(**{name: tf.constant(images)})[probabilities].numpy()

    return Network(call, tuple(spec.shape), spec.dtype.name)


def open_tflite(path: str, threads: int) -> Network:
    """A TFLite file in LiteRT, for one image a call."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    [image], [probabilities] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(image["index"], (1, *image["shape"][1:]))
    interpreter.allocate_tensors()

    def call(images):
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return Network(call, (1, *image["shape"][1:].tolist()), np.dtype(image["dtype"]).name)


def open_onnx(path: str, threads: int) -> Network:
    """An ONNX file in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [image], [probabilities] = session.get_inputs(), session.get_outputs()
    shape = tuple(size if isinstance(size, int) else None for size in image.shape)
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[image.type]
    return Network(lambda images: session.run([probabilities.name], {image.name: images})[0], shape, dtype)


def open_openvino(path: str, threads: int, precision: str | None = "f32") -> Network:
    """A network of OpenVINO, its `.xml` file or the folder of `model.xml`, on the CPU.

    `precision` is that of computing. None leaves it to OpenVINO, which takes bfloat16 where the processor has it.
    """
    import openvino

    file = Path(path) / "model.xml" if Path(path).is_dir() else Path(path)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    image = compiled.input(0)
    shape = tuple(None if size.is_dynamic else size.get_length() for size in image.partial_shape)
    dtype = np.dtype(image.element_type.to_dtype()).name
    return Network(lambda images: next(iter(compiled(images).values())), shape, dtype)


def open_openvino_as_is(path: str, threads: int) -> Network:
    """As `open_openvino`, in the precision that OpenVINO chooses."""
    return open_openvino(path, threads, precision=None)


OPENERS: dict[str, Callable[..., Network]] = {
    "keras": open_keras,
    "saved_model": open_saved_model,
    "tflite": open_tflite,
    "onnx": open_onnx,
    "openvino": open_openvino_as_is,
    "openvino-f32": open_openvino,
}


def serve(pipe: Connection, runtime: str, path: str, threads: int, processor_time: bool = False) -> None:
    """Times a file for the process at the other end of a pipe: a number of calls comes, their seconds go, a list.

    First of all the number of bytes of a call's images goes, or the exception that kept the file from being opened.
    The process is kept on `threads` cores, where the system can do that. With `processor_time` the seconds are those of
    its cores at work, all together, and not those that pass.
    """
    clock = time.process_time if processor_time else time.perf_counter
    try:
        _keep_on_cores(threads)
        network = OPENERS[runtime](path, threads)
        shape = [size or fallback for size, fallback in zip(network.shape, (1, 224, 224, 3), strict=True)]
        images = np.random.default_rng(0).uniform(0, 255, shape).astype(network.dtype)
        time_calls(network.call, images, 3)  # what is prepared on the first call is not timed
    except Exception as error:  # of whatever runtime; the other end raises it
        pipe.send(RuntimeError(f"{path} does not run in {runtime}: {type(error).__name__}: {error}"))
        return
    pipe.send(images.nbytes)
    with contextlib.suppress(EOFError, ConnectionError):  # the other end is gone: nobody asks any more
        while True:
            calls = pipe.recv()
            time_calls(network.call, images, 1)  # others have had the caches since
            pipe.send(time_calls(network.call, images, calls, clock))


def time_calls(
    call: Callable[[np.ndarray], Any], images: np.ndarray, calls: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The seconds that each of several calls takes by a clock, from an array to an array."""
    seconds = []
    for _ in range(calls):
        start = clock()
        call(images)
        seconds.append(clock() - start)
    return seconds


def count_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_on_cores(threads):
    if hasattr(os, "sched_setaffinity"):  # as on Linux
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def _start_tensorflow(threads):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf
