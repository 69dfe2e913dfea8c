"""A file that was exported, run in its own runtime: how near to the model it is, how right, how large, how fast."""

import collections
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_efficientnet.export import flatbuffer
from keras_efficientnet.export.agreement import Classifier, full_precision
from keras_efficientnet.export.images import Images
from keras_efficientnet.export.interchange import is_openvino, load_onnx, load_openvino
from keras_efficientnet.export.saved_model import load_saved_model
from keras_efficientnet.export.tflite import load_tflite
from keras_efficientnet.files import (
    Rejected,
    count_bytes,
    is_saved_model,
    is_single_model,
    replacing,
    write_json,
    write_text,
)
from keras_efficientnet.runtimes.openers import count_cores
from keras_efficientnet.runtimes.timing import Candidate
from keras_efficientnet.runtimes.timing import measure as time_files

BATCH = 32
THREADS = (1, 2)
LEAST_AGREEMENT = 0.99


class Runtime(NamedTuple):
    title: str
    load: Callable[[str], Classifier]
    is_ours: Callable[[Path], bool]  # whether a file or folder may be replaced by one of the kind
    stored: Callable[[Path], str]  # a file -> what its weights are kept in, and what it computes in


def _describe_tflite(path: Path) -> str:
    """How many bytes of constants, and how many operations, there are of each type."""
    model = flatbuffer.read(path.read_bytes())
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    outputs = [graph.tensors[step.outputs[0]] for graph in model.subgraphs for step in graph.operators]
    types = {number: name for name, number in vars(flatbuffer.schema.TensorType).items() if name.isupper()}
    sizes: collections.Counter[str] = collections.Counter()
    operations: collections.Counter[str] = collections.Counter()
    for tensor in tensors:
        data = model.buffers[tensor.buffer].data
        sizes[types[tensor.type].lower()] += 0 if data is None else len(data)
    for tensor in outputs:
        operations[types[tensor.type].lower()] += 1
    weights = ", ".join(f"{size / 1e6:.2f} MB {name}" for name, size in sizes.most_common() if size >= 1e4)
    return f"weights {weights}; operations " + ", ".join(f"{n} {name}" for name, n in operations.most_common())


def _is_float32(path: Path) -> str:
    return "float32"


RUNTIMES = {
    "saved_model": Runtime("SavedModel", load_saved_model, is_saved_model, _is_float32),
    "tflite": Runtime("TFLite", load_tflite, is_single_model, _describe_tflite),
    "onnx": Runtime("ONNX", load_onnx, is_single_model, _is_float32),
    "openvino": Runtime("OpenVINO", load_openvino, is_openvino, _is_float32),
}


class Report(NamedTuple):
    """What was measured on a file. Shares are from 0 to 1, differences those of probabilities."""

    file: str
    format: str
    stored: str  # what its weights are kept in, and what it computes in
    bytes: int
    images: str  # what they were
    max_difference: float  # from the model's
    mean_difference: float
    agreement: float  # share of the images for which file and model choose the same class
    accuracy: float | None  # top-1, of the file; None where nobody says the right classes
    model_accuracy: float | None
    milliseconds: dict[int, float]  # threads -> the median of calls with one image


def measure(model: keras.Model, path: str | os.PathLike[str], runtime: str, images: Images) -> Report:
    """Runs a file beside its model.

    Args:
        model: what it was made from.
        path: of the file or folder.
        runtime: a key of `RUNTIMES`.
        images: that the model takes.

    Raises:
        RuntimeError: the file does not run, or gives what is not finite.
    """
    path, row = Path(path), RUNTIMES[runtime]
    with full_precision():
        expected = _call(lambda pixels: model(pixels, training=False).numpy(), images.pixels)
    found = _call(row.load(os.fspath(path)), images.pixels)
    if not np.isfinite(found).all():
        raise RuntimeError(f"{path} gives probabilities that are not finite.")
    differences = np.abs(found - expected)
    threads = [number for number in THREADS if number <= count_cores()]
    timings = time_files([Candidate(model.name, runtime, runtime, os.fspath(path), number) for number in threads])
    return Report(
        file=path.name,
        format=row.title,
        stored=row.stored(path),
        bytes=count_bytes(path),
        images=images.origin,
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        agreement=float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        accuracy=_accuracy(found, images.labels),
        model_accuracy=_accuracy(expected, images.labels),
        milliseconds={number: timing.quartiles[1] for number, timing in zip(threads, timings, strict=True)},
    )


def _call(function, pixels):
    return np.concatenate([function(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])


def _accuracy(probabilities, labels):
    return None if labels is None else float((probabilities.argmax(axis=1) == labels).mean())


def measured(
    write: Callable[[Path], Any],
    model: keras.Model,
    path: str | os.PathLike[str],
    runtime: str,
    images: Images,
    *,
    least_agreement: float = LEAST_AGREEMENT,
    overwrite: bool = False,
) -> Report:
    """Exports a model, and measures the file before it takes its place.

    Beside it come `PATH.report.json` and `PATH.report.md`. A file that is not good enough is kept as `PATH.rejected`,
    with its report.

    Args:
        write: an exporter, but for the path to write to: `functools.partial(to_tflite, model, quantize="int8")`.
        model: what it exports.
        path: where the file or folder comes to stand.
        runtime: a key of `RUNTIMES`.
        images: that the model takes.
        least_agreement: share of the images for which file and model must choose the same class, in [0, 1].
        overwrite: whether to replace what is there.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is of another kind.
        Rejected: file and model agree less.
        ValueError: `least_agreement` is no share.
        ...: what `write` raises.
    """
    if not 0 <= least_agreement <= 1:
        raise ValueError(f"`least_agreement` must be a share, from 0 to 1. Received: {least_agreement}")
    reports = []
    try:
        with replacing(path, overwrite, is_ours=RUNTIMES[runtime].is_ours) as new:
            write(new)
            reports.append(measure(model, new, runtime, images))
            _judge(reports[0], least_agreement)
    finally:
        for report in reports:
            _write_report(Path(path), report)
    return report


def _judge(report, least_agreement):
    """Raises `Rejected`, with figures, if file and model agree on fewer images than they must."""
    if report.agreement < least_agreement:
        raise Rejected(
            f"{report.file} chooses as the model does for {100 * report.agreement:.2f} % of {report.images}; at least "
            f"{100 * least_agreement:g} % must be."
        )


def _write_report(path, report):
    write_json(path.with_name(f"{path.name}.report.json"), report._asdict())
    write_text(path.with_name(f"{path.name}.report.md"), table(report) + "\n")


def table(report: Report) -> str:
    """The report as a table of Markdown, two columns."""
    rows = [
        ("file", f"{report.file}, {report.format}, {report.bytes / 1e6:.2f} MB"),
        ("stored", report.stored),
        ("images", report.images),
        ("agreement with the model", f"{100 * report.agreement:.2f} %"),
        ("difference of a probability", f"at most {report.max_difference:.2g}, mean {report.mean_difference:.2g}"),
        ("top-1 accuracy", _beside(report)),
        *((f"one image, {n} thread{'s' * (n > 1)}", f"{ms:.2f} ms") for n, ms in report.milliseconds.items()),
    ]
    width, wide = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"| {name:{width}} | {text:{wide}} |" for name, text in rows]
    return "\n".join([lines[0], f"|{'-' * (width + 2)}|{'-' * (wide + 2)}|", *lines[1:]])


def _beside(report):
    if report.accuracy is None or report.model_accuracy is None:
        return "the right classes are not known"
    return f"{100 * report.accuracy:.2f} %; of the model {100 * report.model_accuracy:.2f} %"
