"""Measures an exported file in its own runtime: agreement with its model, accuracy, size and speed."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_efficientnet.evaluation import metrics
from keras_efficientnet.export.agreement import batches, compare, name_outputs
from keras_efficientnet.export.formats import FORMATS
from keras_efficientnet.export.images import Images
from keras_efficientnet.files import RejectedFileError, count_bytes, replacing, write_json, write_text
from keras_efficientnet.runtimes import timing
from keras_efficientnet.runtimes.worker import default_threads

LEAST_AGREEMENT = 0.99
AN_OUTPUT = {"probabilities": "a probability", "features": "a feature", "outputs": "an output"}


class Report(NamedTuple):
    """Measurements of a file. Shares are from 0 to 1."""

    file: str
    format: str
    stored: str  # number formats of the weights and of the computation
    bytes: int
    images: str  # origin of the images
    outputs: str  # what the model gives: see `name_outputs`
    max_difference: float  # of an output, from the model's
    mean_difference: float
    range: tuple[float, float]  # the model's lowest and highest output
    agreement: float | None  # share of the images for which file and model predict the same class; None without classes
    cosine: float | None  # mean cosine similarity of the outputs; None for probabilities and for a single output
    accuracy: float | None  # top-1 of the file; None if the true classes are unknown
    model_accuracy: float | None
    milliseconds: dict[int, float]  # threads -> median time of a call with one image


def measure(model: keras.Model, path: str | os.PathLike[str], kind: str, images: Images) -> Report:
    """Runs a file and its model on the same images.

    Args:
        model: the exported model.
        path: the file or folder.
        kind: a key of `FORMATS`.
        images: valid inputs of the model.

    Raises:
        RuntimeError: the file does not run, or gives outputs that are not finite.
    """
    outputs = name_outputs(model)
    path, row = Path(path), FORMATS[kind]
    [result] = compare(model, [row.load(path)], batches(images.pixels))
    if not np.isfinite(result.found).all():
        raise RuntimeError(f"{path} gives {outputs} that are not finite.")
    has_classes = outputs == "probabilities" or images.labels is not None
    return Report(
        file=path.name,
        format=row.title,
        stored=row.describe(path),
        bytes=count_bytes(path),
        images=images.origin,
        max_difference=float(result.differences.max()),
        mean_difference=float(result.differences.mean()),
        outputs=outputs,
        range=(float(result.expected.min()), float(result.expected.max())),
        agreement=result.same_class if has_classes else None,
        cosine=None if outputs == "probabilities" or result.expected.shape[1] == 1 else result.cosine,
        accuracy=_accuracy(result.found, images.labels),
        model_accuracy=_accuracy(result.expected, images.labels),
        milliseconds=_time(path, kind),
    )


def score_files(
    model: keras.Model, files: Mapping[str, Path], examples: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Returns scores, `agreement` with the model and `bytes` of files exported from it.

    Args:
        model: the exported model.
        files: keys of `FORMATS` -> files.
        examples: batches of pixels and true classes, read once.
    """
    labels: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for images, classes in examples:
            labels.append(classes)
            yield images

    results = compare(model, [FORMATS[kind].load(path) for kind, path in files.items()], pixels())
    rows = {}
    for (kind, path), result in zip(files.items(), results, strict=True):
        scores = metrics.score(metrics.outcomes_from_probabilities(result.found, np.concatenate(labels)))
        rows[kind] = scores._asdict() | {"agreement": result.same_class, "bytes": count_bytes(path)}
    return rows


def write_measured(
    write: Callable[[Path], Any],
    model: keras.Model,
    path: str | os.PathLike[str],
    kind: str,
    images: Images,
    *,
    least_agreement: float = LEAST_AGREEMENT,
    overwrite: bool = False,
) -> Report:
    """Exports a model, and measures the file before it replaces what exists at `path`.

    Writes the reports `PATH.report.json` and `PATH.report.md`. A file that agrees too little with its model is kept as
    `PATH.rejected`, with its reports.

    Args:
        write: writes the file to a path: `functools.partial(to_tflite, model, quantize="int8")`.
        model: the exported model.
        path: file or folder to write.
        kind: a key of `FORMATS`.
        images: valid inputs of the model.
        least_agreement: required share of the images for which file and model predict the same class, or mean cosine
            similarity of outputs without classes, in [0, 1].
        overwrite: whether to replace an existing file of the same kind.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or it is of another kind.
        RejectedFileError: file and model agree less.
        ValueError: `least_agreement` is out of range.
        ...: errors of `write`.
    """
    if not 0 <= least_agreement <= 1:
        raise ValueError(f"`least_agreement` must be a share, from 0 to 1. Received: {least_agreement}")
    report = None
    try:
        with replacing(path, overwrite, is_ours=FORMATS[kind].is_ours) as new:
            write(new)
            report = measure(model, new, kind, images)
            _check_agreement(report, least_agreement)
    finally:
        if report:
            _write_report(Path(path), report)
    return report


def format_report(report: Report) -> str:
    """Returns the report as a Markdown table of two columns."""
    rows = [
        ("file", f"{report.file}, {report.format}, {report.bytes / 1e6:.2f} MB"),
        ("stored", report.stored),
        ("images", report.images),
        *_format_agreement(report),
    ]
    rows += [(f"one image, {n} thread{'s' * (n > 1)}", f"{ms:.2f} ms") for n, ms in report.milliseconds.items()]
    width, wide = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"| {name:{width}} | {text:{wide}} |" for name, text in rows]
    return "\n".join([lines[0], f"|{'-' * (width + 2)}|{'-' * (wide + 2)}|", *lines[1:]])


def _time(path, kind) -> dict[int, float]:
    candidates = [
        timing.Candidate(model=path.name, format=kind, runtime=kind, path=os.fspath(path), threads=number)
        for number in default_threads()
    ]
    return {timed.threads: timed.quartiles[1] for timed in timing.measure(candidates)}


def _accuracy(probabilities, labels):
    return None if labels is None else float((probabilities.argmax(axis=1) == labels).mean())


def _check_agreement(report, least_agreement):
    if report.agreement is None:
        if report.cosine is not None and report.cosine < least_agreement:
            raise RejectedFileError(
                f"{report.file} gives {report.outputs} with a cosine similarity of {report.cosine:.4f} to the model's "
                f"on {report.images}; at least {least_agreement:g} is required."
            )
    elif report.agreement < least_agreement:
        raise RejectedFileError(
            f"{report.file} predicts the class of the model for {100 * report.agreement:.2f} % of {report.images}; at "
            f"least {100 * least_agreement:g} % are required."
        )


def _write_report(path, report):
    write_json(path.with_name(f"{path.name}.report.json"), report._asdict())
    write_text(path.with_name(f"{path.name}.report.md"), format_report(report) + "\n")


def _format_agreement(report) -> list[tuple[str, str]]:
    difference = f"at most {report.max_difference:.2g}, mean {report.mean_difference:.2g}"
    if report.outputs != "probabilities":
        difference += "; the model's are from {:.3g} to {:.3g}".format(*report.range)
    rows = [(f"difference of {AN_OUTPUT[report.outputs]}", difference)]
    if report.cosine is not None:
        rows = [("cosine similarity to the model", f"{report.cosine:.6f}"), *rows]
    if report.agreement is None:
        return rows
    agreement = ("agreement with the model", f"{100 * report.agreement:.2f} %")
    return [agreement, *rows, ("top-1 accuracy", _format_accuracy(report))]


def _format_accuracy(report):
    if report.accuracy is None or report.model_accuracy is None:
        return "the true classes are unknown"
    return f"{100 * report.accuracy:.2f} %; of the model {100 * report.model_accuracy:.2f} %"
