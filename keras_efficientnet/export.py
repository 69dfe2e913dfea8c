"""A model -> a SavedModel or a TFLite file, compared with the model before it takes its place; and back, to call it."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_efficientnet.layers import summed_experts

TOLERANCE = 1e-4  # between a probability of the file and the model's; rounding alone comes to some 1e-6
FREE_SIZE = 96  # height and width of the test images, in pixels, where the model takes any
TFLITE_THREADS = 2

# pixels, float32 [n, height, width, channels] -> probabilities, float32 [n, classes]
Classifier = Callable[[np.ndarray], np.ndarray]


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a `.keras` file for inference and export: without its optimizer and losses.

    Args:
        path: of the file, or of the folder of a run, which has a `model.keras`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a whole `.keras` file, or has layers that nobody has registered.
    """
    path = Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}. Give a .keras file, or a folder with a model.keras.")
    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises whatever the content leads it to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a whole .keras file of a known network: {reason}") from error


def to_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
) -> float:
    """Writes a SavedModel that serves, and trains on, without this package.

    `tf.saved_model.load` gives a function (inputs, training=False), from pixels, float32 [batch, height, width,
    channels], to probabilities [batch, classes], with `variables`, `trainable_variables` and, if given,
    `labels.asset_path`. Its signature `serving_default` takes `inputs` and gives `probabilities` and `classes`, int32
    [batch], the likeliest.
    Either the whole SavedModel comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier; its height and width may be free.
        path: of the folder to write.
        labels: names of the classes, in order, for the file `assets/labels.txt`.
        overwrite: whether to replace a SavedModel that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no SavedModel.
        ValueError: the model gives no probabilities from images, or the labels do not fit it.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
        OSError: it could not be written.
    """
    _check_model(model)
    _check_labels(model, labels)
    with replacing(path, overwrite, is_ours=is_saved_model) as new, _quietly():
        _save(model, new, labels)
        return _compare(model, load_saved_model(new), "SavedModel")


def to_tflite(
    model: keras.Model, path: str | os.PathLike[str], *, dynamic_batch: bool = False, overwrite: bool = False
) -> float:
    """Writes a TFLite file: float32, built-in operations only.

    Its signature `serving_default` takes `inputs`, pixels [1, height, width, channels], and gives `probabilities`
    [1, classes]; or as many as there are, with a dynamic batch. Either the whole file comes to stand at `path`, or
    what was there stays.

    Args:
        model: a classifier of images of one size.
        path: of the file to write.
        dynamic_batch: whether a call takes any number of images in place of one.
        overwrite: whether to replace a file that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no file.
        ValueError: the model gives no probabilities from images, their size is free, or it computes in mixed precision.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    _check_model(model)
    if None in model.input_shape[1:]:
        raise ValueError(
            f"A TFLite file takes images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with a fixed `input_shape`, (224, 224, 3) for example."
        )
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers):
        raise ValueError(
            f"A TFLite file computes in float32, {model.name} in mixed precision: build it under "
            'keras.config.set_dtype_policy("float32") and give it the same weights.'
        )
    with replacing(path, overwrite, is_ours=Path.is_file) as new, _quietly():
        new.write_bytes(_convert(model, None if dynamic_batch else 1))
        return _compare(model, load_tflite(new), "TFLite file")


def load_saved_model(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `to_saved_model` wrote, as a function from images to probabilities."""
    loaded = tf.saved_model.load(os.fspath(path))

    def classify(images):
        return loaded(tf.convert_to_tensor(images, tf.float32)).numpy()

    return classify


def load_tflite(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `to_tflite` wrote, as a function from images to probabilities."""
    runner = Interpreter(os.fspath(path), num_threads=TFLITE_THREADS).get_signature_runner("serving_default")
    classes = runner.get_output_details()["probabilities"]["shape"][-1]
    any_batch = runner.get_input_details()["inputs"]["shape_signature"][0] == -1

    def classify(images):
        if any_batch:
            return runner(inputs=np.asarray(images, "float32"))["probabilities"]
        probabilities = np.empty((len(images), classes), "float32")
        for row, image in zip(probabilities, np.asarray(images, "float32"), strict=True):
            row[:] = runner(inputs=image[np.newaxis])["probabilities"][0]
        return probabilities

    return classify


def count_bytes(path: str | os.PathLike[str]) -> int:
    """The size of a file, or of all files in a folder."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Exporting needs Keras on TensorFlow. Received: backend={keras.backend.backend()!r}. Save the model as "
            ".keras, and load and export that under KERAS_BACKEND=tensorflow."
        )
    shapes = [tuple(tensor.shape) for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2]:
        raise ValueError(
            "Only a classifier can be exported: from images [batch, height, width, channels] to probabilities "
            f"[batch, classes]. {model.name} has inputs and outputs {shapes}. Was it built with include_top=True?"
        )


def _check_labels(model, labels):
    if labels is None:
        return
    classes = model.output_shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must name the {classes} classes of {model.name}. Received: {len(labels)} names.")
    if any(label.splitlines() != [label] for label in labels):
        raise ValueError(f"Each of `labels` must be one line of text. Received: {labels}")


def check_target(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Raises a FileExistsError if there is something at `path`, and not `overwrite`, or it is not `is_ours`."""
    target = Path(path).resolve()
    if target.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Choose another path, or overwrite it: overwrite=True, --overwrite.")
    if target.exists() and not is_ours(target):
        raise FileExistsError(f"{path} is something else than what it would be overwritten with. Choose another path.")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Gives a path to write to, which takes the place of `path` when all went well and vanishes otherwise.

    Raises:
        FileExistsError: as `check_target`.
    """
    check_target(path, overwrite, is_ours)
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # same file system: can be renamed
    new, old = folder / "new", folder / "old"
    try:
        yield new
        _flush(new)
        _swap(new, target, old)
    finally:
        if target.exists() or not old.exists():  # and not the only copy of what was there
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path):
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            with open(file, "rb+") as stream:
                os.fsync(stream)


def _swap(new, target, old):
    try:
        if target.is_dir():  # a folder does not replace another in one step
            os.replace(target, old)
        os.replace(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise


@contextlib.contextmanager
def _quietly():
    """Keeps TensorFlow from telling of each file it writes, in programs that log what is informative."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def is_saved_model(path: Path) -> bool:
    """Whether there is an empty folder, or one that a SavedModel was written to."""
    return path.is_dir() and (not any(path.iterdir()) or (path / "saved_model.pb").is_file())


@summed_experts()
def _save(model, path, labels):
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="inputs")

    @tf.function
    def call(inputs, training=False):
        return model(inputs, training=training)

    @tf.function(input_signature=[spec])
    def serve(inputs):
        probabilities = call(inputs)
        return {"probabilities": probabilities, "classes": tf.argmax(probabilities, -1, output_type=tf.int32)}

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    holder = _hold(model)
    holder.__call__ = call
    holder.trainable_variables = [variable.value for variable in model.trainable_variables]
    if labels is not None:
        file = path.with_name("labels.txt")
        file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        holder.labels = tf.saved_model.Asset(os.fspath(file))
    try:
        tf.saved_model.save(holder, os.fspath(path), signatures={"serving_default": serve})
    except tf.errors.OpError as error:  # a full disk, for example
        raise OSError(f"TensorFlow could not write the SavedModel: {error.message}") from error


@summed_experts()
def _convert(model, batch_size) -> bytes:
    spec = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="inputs")
    serve = tf.function(lambda inputs: {"probabilities": model(inputs, training=False)}, input_signature=[spec])
    holder = _hold(model)
    holder.serve = serve
    return tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], holder).convert()


def _hold(model):
    """What savers and converters are given: the variables of TensorFlow, once each.

    Given the Keras model, `Model.export` and ExportArchive store each twice, and the converter of TFLite loses them:
    it writes, without an error, a file whose outputs are NaN.
    """
    holder = tf.train.Checkpoint()
    holder.variables = [variable.value for variable in model.variables]
    return holder


def _compare(model, function: Classifier, what: str) -> float:
    """The largest difference between the probabilities of a file and of its model; raises if it is too large."""
    _, height, width, channels = model.input_shape
    images = _make_images(height or FREE_SIZE, width or FREE_SIZE, channels)
    with _full_precision():
        expected = model(images, training=False).numpy()
        found = function(images)
    for name, probabilities in ((model.name, expected), (f"The {what} of {model.name}", found)):
        if not np.isfinite(probabilities).all():
            raise RuntimeError(f"{name} gives probabilities that are not finite. Nothing was written.")
    if expected.min() < 0 or expected.max() > 1 + TOLERANCE:
        raise ValueError(f"{model.name} gives no probabilities. Build it with a `classifier_activation`, 'softmax'.")
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE:
        raise RuntimeError(
            f"The {what} gives other probabilities than {model.name}: on {len(images)} random images they differ by "
            f"up to {difference:.2g}, where {TOLERANCE:g} is allowed. Nothing was written."
        )
    return difference


def _make_images(height, width, channels):
    """Random images, float32 [3, height, width, channels] from 0 to 255: coarse patches, finer ones, single pixels."""
    random = np.random.default_rng(0)
    images = np.empty((3, height, width, channels), "float32")
    for image, patch in zip(images, (32, 8, 1), strict=True):
        patches = random.uniform(0, 255, (-(-height // patch), -(-width // patch), channels))
        image[:] = patches.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    return images


@contextlib.contextmanager
def _full_precision():
    """Switches off the rounding of convolutions to 10 bits that GPUs have as a default."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
