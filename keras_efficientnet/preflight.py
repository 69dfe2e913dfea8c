"""Checks of what the arguments alone decide, before TensorFlow is imported, which takes seconds.

The functions that need the files and packages check them again: this module is only faster.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_efficientnet.architectures import OTHER_NAMES, VARIANTS, find_variant
from keras_efficientnet.checkpoint_folder import CheckpointFolder
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.files import check_target
from keras_efficientnet.labels import read_labels
from keras_efficientnet.paths import (
    missing_class_folders,
    missing_images,
    missing_records,
    missing_weights,
    split_paths,
)
from keras_efficientnet.recipes import find_variant_of, make_config
from keras_efficientnet.runs import RunFolder, find_run
from keras_efficientnet.weights import pretrained

DATASETS = ("sample", "records", "folder")
UNPUBLISHED = ("birdsnap", "fgvc_aircraft")  # rows of `TRANSFER` that are read from a folder
# Format or number format of an export -> the packages that write and check it
EXPORT_PACKAGES = {
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino": ("openvino",),
    "int8": ("ai_edge_quantizer",),
}
SHAPE = ("model_name", "width_coefficient", "depth_coefficient")  # options that decide which weights fit
WEIGHT_ENDINGS = (".weights.h5", ".keras", ".safetensors", ".h5")  # of the files that `convert_file` writes


def check_run(config: TrainConfig) -> None:
    """Raises what a run with these options would raise after TensorFlow's import.

    Passes on one of several hosts, which TF_CONFIG names: they must meet first, so that all end with the same message.

    Raises:
        FileNotFoundError: the data, the weights, the images or the run to evaluate do not exist.
        ImportError: a package of an extra is missing.
        ValueError: there is no such network, dataset or set of published weights.
    """
    if os.environ.get("TF_CONFIG"):
        return
    run = RunFolder(config.directory)
    find_variant(config.model_name)
    if config.mode == "eval" and config.eval_timeout is None and not _has_checkpoint(run):
        raise missing_checkpoint(run)
    if config.mode == "predict":
        if not _has_checkpoint(run) and not run.model.is_file():
            raise missing_network(run)
        check_images(config.images or "")
    else:
        _check_dataset(config)
        _check_data_dir(config)
    if config.weights and not _has_checkpoint(run):
        check_weights(config.weights, config.model_name)
        _check_run_of_weights(config)


def _check_run_of_weights(config):
    """Raises ValueError if the weights are those of a run whose network has another width or depth."""
    run = None if pretrained.is_name(config.weights) else find_run(config.weights)
    if run is None:
        return
    options = make_config(mode="eval", model_dir=str(run.path))
    ours, theirs = find_variant_of(config), find_variant_of(options)
    if (ours.width, ours.depth) != (theirs.width, theirs.depth):
        words = ", ".join(f"{name}={getattr(options, name)}" for name in SHAPE)
        raise ValueError(f"The network of the run in {run.path} has {words}. Give the same, or other `weights`.")


def _has_checkpoint(run):
    return not all(CheckpointFolder(folder).is_empty() for folder in (run.checkpoints, run.archive))


def missing_checkpoint(run: RunFolder) -> FileNotFoundError:
    """Returns the error of an evaluation that found no checkpoint."""
    return FileNotFoundError(f"There is no checkpoint in {run.path} to evaluate. Train first, or check `model_dir`.")


def missing_network(run: RunFolder) -> FileNotFoundError:
    """Returns the error of a prediction that found no network."""
    return FileNotFoundError(
        f"There is neither a checkpoint nor a {run.model.name} in {run.path}. Train first, or check `model_dir`."
    )


def _check_dataset(config):
    name = config.dataset
    if name is None or name in DATASETS or (name in UNPUBLISHED and config.data_dir):
        return
    prepared = config.data_dir and os.path.isdir(os.path.join(config.data_dir, re.split("[:/]", name)[0]))
    close = find_closest(name, DATASETS)
    if close and not prepared:
        raise ValueError(
            f"`dataset` must be sample, records, folder or a name in tensorflow-datasets. Received: dataset={name!r}. "
            f"Did you mean {close[0]!r}?"
        )
    if name not in UNPUBLISHED:
        check_package(
            "tensorflow_datasets",
            "tfds",
            f"`dataset={name}`",
            " Without it: sample, records, folder.",
        )


def _check_data_dir(config):
    kind, folder = config.dataset or "records", config.data_dir
    if folder is None or kind not in (*DATASETS, *UNPUBLISHED) or _exists(folder):
        return
    if kind == "records":
        raise missing_records(folder, "train", is_folder=False)
    raise missing_class_folders(folder)


def _exists(path):
    """Returns whether a local path exists; one of Cloud Storage is looked up later."""
    return "://" in str(path) or os.path.exists(os.path.expanduser(path))


def check_images(images: str) -> None:
    """Raises FileNotFoundError if a file or folder in a list of image files, folders and patterns does not exist."""
    for path in split_paths(images):
        if not _exists(path) and not set(path) & set("*?["):
            raise missing_images(path)


def check_weights(weights: str, model_name: str | None) -> None:
    """Raises an error if weights are neither the name of published weights that can be fetched nor a path.

    Args:
        weights: a name or a path.
        model_name: the network; None if the weights name it.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: huggingface_hub is missing.
        ValueError: the network has no published weights of that name.
    """
    if not pretrained.is_name(weights):
        if not _exists(weights) and not _exists(f"{weights}.index"):
            raise missing_weights(weights)
        return
    if model_name is None:
        model_name = pretrained.model_name_in(weights)
    if model_name and pretrained.find(model_name, weights).repository:
        check_package("huggingface_hub", "weights", f"The weights {weights} are on Hugging Face, which")


def check_export(
    kind: str, model: str, output: str, *, overwrite: bool, labels: str | None = None, images: str | None = None
) -> None:
    """Raises what an export would raise after TensorFlow's import.

    Args:
        kind: a format or a number format.
        model: the .keras file or the run folder.
        output: path of the new file or folder.
        overwrite: whether `output` may be replaced.
        labels: text file with class names.
        images: images to measure on.

    Raises:
        FileExistsError: `output` exists.
        FileNotFoundError: the model, the labels or the images do not exist.
        ImportError: a package of the extra `export` is missing.
        ValueError: the file with the labels is not text.
    """
    check_packages([kind])
    run = RunFolder(model)
    file = run.model if run.path.is_dir() else run.path
    if not file.is_file():
        raise missing_model(model)
    check_target(output, overwrite, is_ours=lambda path: True)
    if labels:
        read_labels(labels)
    if images and images != "sample":
        check_images(images)


def missing_model(path: str | os.PathLike[str]) -> FileNotFoundError:
    """Returns the error of an export that found no `.keras` file at a path or in the run folder there."""
    run = RunFolder(path)
    file = run.model if run.path.is_dir() else run.path
    unfinished = run.checkpoints.is_dir()
    hint = f" The run has not finished; export/convert_weights.py --weights={path} makes one." if unfinished else ""
    return FileNotFoundError(
        f"There is no file {str(file)!r}. Give a .keras file, or a folder with a {run.model.name}.{hint}"
    )


def find_ending(path: str | os.PathLike[str]) -> str:
    """Returns the one of `WEIGHT_ENDINGS` that a path has, or "" for a SavedModel. Raises ValueError for any other."""
    ending = next((ending for ending in WEIGHT_ENDINGS if Path(path).name.endswith(ending)), Path(path).suffix)
    if ending and ending not in WEIGHT_ENDINGS:
        known = ", ".join(WEIGHT_ENDINGS)
        raise ValueError(f"`output` must end in {known}, or have no ending for a SavedModel. Received: {str(path)!r}")
    return ending


def check_packages(kinds: Iterable[str]) -> None:
    """Raises ImportError if a package is missing that exports of these formats or number formats need."""
    for kind in kinds:
        for names in (EXPORT_PACKAGES.get(word, ()) for word in kind.split("-")):
            for name in names:
                check_package(name, "export", f"Exporting to {kind}")


def check_package(name: str, extra: str, purpose: str, hint: str = "") -> None:
    """Raises ImportError, with the command that installs it, if a package is missing. Imports nothing."""
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # hidden by an import hook
        found = False
    if not found:
        raise ImportError(
            f"{purpose} needs {name.replace('_', '-')}, which is not installed: "
            f'pip install "keras_efficientnet[{extra}]".{hint}'
        )


def check_models(names: Sequence[str]) -> None:
    """Raises ValueError if a name is not that of a network."""
    if unknown := [name for name in names if name not in VARIANTS and name not in OTHER_NAMES]:
        raise ValueError(f"Unknown models: {', '.join(unknown)}. Choose from: {', '.join(VARIANTS)}")


def check_plot(plot: bool, output: str | None) -> None:
    """Raises ValueError if a plot has no folder to be written to."""
    if plot and not output:
        raise ValueError("--plot needs a folder to write to: --output=latency")


def check_path(path: str, description: str) -> None:
    """Raises FileNotFoundError if a local path does not exist; `description` says what it must be."""
    if not _exists(path):
        raise FileNotFoundError(f"There is no {description} {str(path)!r}.")


def explain_unknown_flag(name: str, known: Sequence[str]) -> str:
    """Returns what to say about a flag that does not exist, with the flags that may be meant."""
    close = find_closest(name, known) or find_closest(name.removeprefix("no"), known)
    hint = f" Did you mean: {', '.join(close)}?" if close else ""
    return f"Unknown flag --{name}.{hint} --help lists the flags."


def find_closest(word: str, words: Sequence[str]) -> list[str]:
    """Returns the words that a mistyped word may stand for, the closest first: those that resemble or contain it."""
    plain = word.replace("-", "_").lower()
    inside = [other for other in words if re.search(rf"(^|_){re.escape(plain)}(_|$)", other)]
    return list(dict.fromkeys(difflib.get_close_matches(plain, words, 3, cutoff=0.75) + inside))[:3]
