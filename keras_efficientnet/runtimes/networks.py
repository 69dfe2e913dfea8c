"""Opens a model file of any format in its runtime: one interface for all formats.

A runtime is imported only for a file of its format: a process that times a TFLite file must not load TensorFlow.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_efficientnet.paths import without_wildcards

THREADS = 2


@dataclass(frozen=True)
class Network:
    """An open model file. Call it with float32 images from 0 to 255, [n, height, width, channels], for any n."""

    run: Callable[[np.ndarray], np.ndarray]  # one call of the runtime: images of `shape` and `dtype` -> float32 outputs
    shape: tuple[int | None, ...]  # of the input; None where any size is valid
    dtype: str  # of the input
    scale: float = 1.0  # a whole-number input is round(pixels / scale) + zero_point
    zero_point: int = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the probabilities, float32 [n, classes]."""
        images = self._quantize(np.asarray(images, "float32"))
        if self.shape[0] is None:
            return self.run(images)
        return np.concatenate([self.run(images[place : place + 1]) for place in range(len(images))])

    def _quantize(self, images):
        if not np.issubdtype(self.dtype, np.integer):
            return images.astype(self.dtype, copy=False)
        limits = np.iinfo(self.dtype)
        whole = np.rint(images / self.scale) + self.zero_point
        return whole.clip(limits.min, limits.max).astype(self.dtype)


def load_keras(path: str | Path, threads: int | None = None) -> Network:
    """Loads a `.keras` file as a TensorFlow graph for one image.

    Args:
        path: the file.
        threads: threads of TensorFlow, which must not have computed anything yet; None leaves its setting as it is.
    """
    tf = start_tensorflow(threads)
    import keras

    import keras_efficientnet.layers  # noqa: F401  registers the layers with Keras

    model = keras.saving.load_model(path, compile=False)
    spec = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    graph = tf.function(lambda images: model(images, training=False), input_signature=[spec])
    return Network(lambda images: graph(images).numpy(), tuple(spec.shape), "float32")


def load_saved_model(path: str | Path, threads: int | None = None) -> Network:
    """Loads a SavedModel and calls its signature `serving_default`.

    Args:
        path: the folder.
        threads: threads of TensorFlow, which must not have computed anything yet; None leaves its setting as it is.
    """
    tf = start_tensorflow(threads)
    with without_wildcards(path) as plain:
        loaded = tf.saved_model.load(plain)
    serve = loaded.signatures["serving_default"]
    [(name, spec)] = serve.structured_input_signature[1].items()
    outputs = serve.structured_outputs
    output = "probabilities" if "probabilities" in outputs else next(iter(outputs))

    def run(images, loaded=loaded):  # keeps `loaded` alive, which owns the variables
        return serve(**{name: tf.constant(images)})[output].numpy()

    return Network(run, tuple(spec.shape), spec.dtype.name)


def load_tflite(path: str | Path, threads: int | None = THREADS) -> Network:
    """Loads a TFLite file in LiteRT. Its input and output may be of any type, its batch size fixed or dynamic."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    [image], [scores] = interpreter.get_input_details(), interpreter.get_output_details()
    sizes = tuple(image["shape"][1:].tolist())
    allocated = None  # batch size that the tensors are allocated for

    def run(images):
        nonlocal allocated
        if len(images) != allocated:
            interpreter.resize_tensor_input(image["index"], (len(images), *sizes))
            interpreter.allocate_tensors()
            allocated = len(images)
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return _dequantize(interpreter.get_tensor(scores["index"]), *scores["quantization"])

    scale, zero_point = image["quantization"]
    dynamic = image["shape_signature"][0] == -1
    dtype = np.dtype(image["dtype"]).name
    return Network(run, (None if dynamic else 1, *sizes), dtype, scale=scale or 1.0, zero_point=zero_point)


def load_onnx(path: str | Path, threads: int = THREADS) -> Network:
    """Loads an ONNX file in ONNX Runtime, on the CPU."""
    onnxruntime: Any = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [image], [probabilities] = session.get_inputs(), session.get_outputs()
    shape = tuple(size if isinstance(size, int) else None for size in image.shape)
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}[image.type]
    return Network(lambda images: session.run([probabilities.name], {image.name: images})[0], shape, dtype)


def load_openvino(path: str | Path, threads: int = THREADS, *, precision: str | None = "f32") -> Network:
    """Loads an OpenVINO network on the CPU.

    Args:
        path: the `.xml` file, or the folder that has a `model.xml`.
        threads: threads that compute.
        precision: number format of the computation. None lets OpenVINO choose: bfloat16 if the processor supports it.
    """
    openvino: Any = import_package("openvino")
    file = Path(path) / "model.xml" if Path(path).is_dir() else Path(path)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    image = compiled.input(0)
    shape = tuple(None if size.is_dynamic else size.get_length() for size in image.partial_shape)
    dtype = np.dtype(image.element_type.to_dtype()).name
    return Network(lambda images: next(iter(compiled(images).values())), shape, dtype)


def _load_openvino_default_precision(path: str | Path, threads: int = THREADS) -> Network:
    return load_openvino(path, threads, precision=None)


LOADERS: dict[str, Callable[..., Network]] = {
    "keras": load_keras,
    "saved_model": load_saved_model,
    "tflite": load_tflite,
    "onnx": load_onnx,
    "openvino": _load_openvino_default_precision,
    "openvino-f32": load_openvino,
}


def import_package(name: str) -> ModuleType:
    """Imports a package of the extra `export`; raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'This needs the package {name}: pip install "keras_efficientnet[export]"') from error


def _dequantize(values, scale, zero_point) -> np.ndarray:
    if np.issubdtype(values.dtype, np.floating):
        return values
    return (values.astype("float32") - zero_point) * np.float32(scale)


def start_tensorflow(threads: int | None) -> Any:
    """Imports TensorFlow, sets its threads unless None, and returns it. It must not have computed anything yet."""
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf
