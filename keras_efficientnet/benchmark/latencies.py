"""Reports latencies as a table, as JSON and CSV, and as a plot of latency against accuracy."""

import csv
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.files import write_text
from keras_efficientnet.runtimes.timing import Timing
from keras_efficientnet.runtimes.worker import count_cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("model", "format", "threads", "median_ms", "mean_ms", "quarter_ms", "three_quarters_ms")
LINE_STYLES = ("--", "-", ":", "-.")  # by the number of threads
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime", "openvino")


def rows(timings: Sequence[Timing], compared: Mapping[Timing, float], baseline: str) -> list[dict[str, Any]]:
    """Returns each timing as a row: `COLUMNS`, the published top-1 accuracy in percent, and the ratio to the baseline.

    Args:
        timings: result of `timing.measure`.
        compared: result of `timing.ratios`.
        baseline: name of the baseline.
    """
    result = []
    for timing in timings:
        quarter, median, three_quarters = timing.quartiles
        milliseconds = [round(value, 3) for value in (median, timing.mean, quarter, three_quarters)]
        row = dict(zip(COLUMNS, (timing.model, timing.format, timing.threads, *milliseconds), strict=True))
        row["top_1"] = VARIANTS[timing.model].top_1 if timing.model in VARIANTS else None
        row[f"times_{baseline}"] = round(compared[timing], 3) if timing in compared else None
        result.append(row)
    return result


def format_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns rows as lines of text, in columns."""
    return _align([[*found[0]], *([_format(value) for value in row.values()] for row in found)], left=2)


def side_by_side(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns medians as lines of text: a row per format, a column per network and threads; * marks the fastest format.

    Returns no lines if no network has two formats.
    """
    medians = {(row["format"], row["model"], row["threads"]): row["median_ms"] for row in found}
    columns = [*dict.fromkeys((model, threads) for _, model, threads in medians)]
    if len(columns) == len(medians):
        return []
    fastest = {column: min(ms for key, ms in medians.items() if key[1:] == column) for column in columns}
    heads = ["median ms", *(f"{model}, {threads} thread{'s' * (threads > 1)}" for model, threads in columns)]
    lines = [heads]
    for name in dict.fromkeys(name for name, *_ in medians):
        cells = [(medians.get((name, *column)), fastest[column]) for column in columns]
        lines.append([name, *(_format(ms) + ("*" if ms == least else " ") for ms, least in cells)])
    return _align(lines, left=1)


def describe_machine() -> dict[str, Any]:
    """Returns what latencies depend on besides the network: processor, cores, load, versions."""
    return {
        "processor": _processor(),
        "cores": count_cores(),
        "load_average_1_minute": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def write_results(
    folder: Path, found: Sequence[Mapping[str, Any]], timings: Sequence[Timing], machine: Mapping[str, Any]
) -> None:
    """Writes the rows to `latency.csv`, and machine, rows and the milliseconds of each call to `latency.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*found[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_text(folder / "latency.csv", text.getvalue())
    calls = [{**row, "rounds_ms": timing.rounds} for row, timing in zip(found, timings, strict=True)]
    write_text(folder / "latency.json", json.dumps({"machine": machine, "timings": calls}, indent=1) + "\n")


def draw(found: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draws top-1 accuracy over latency: a line per format and number of threads, a point per network.

    Networks and files without a published accuracy are vertical lines.

    Raises:
        ValueError: no row has an accuracy.
    """
    from matplotlib.figure import Figure

    if all(row["top_1"] is None for row in found):
        raise ValueError("There is nothing to plot: no timed network has a published accuracy. Give --models.")
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    formats = [*dict.fromkeys(row["format"] for row in found)]
    for name, threads in dict.fromkeys((row["format"], row["threads"]) for row in found):
        rows = [row for row in found if (row["format"], row["threads"]) == (name, threads)]
        style: dict[str, Any] = {
            "color": f"C{formats.index(name)}",
            "linestyle": LINE_STYLES[threads % len(LINE_STYLES)],
        }
        line = sorted((row["median_ms"], row["top_1"]) for row in rows if row["top_1"] is not None)
        label = f"{name}, {threads} thread{'s' * (threads > 1)}"
        axes.plot([ms for ms, _ in line], [top_1 for _, top_1 in line], marker="o", label=label, **style)
        for row in rows:
            if row["top_1"] is None:
                axes.axvline(row["median_ms"], linewidth=1, alpha=0.6, **style)
    _name_networks(axes, found)
    _scale_latency(axes, [row["median_ms"] for row in found])
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(xlabel="latency of one image, median, ms", ylabel="top-1 on ImageNet, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _name_networks(axes, found):
    """Writes the name of each network beside its fastest point, or along its fastest line."""
    for model in dict.fromkeys(row["model"] for row in found):
        fastest = min((row for row in found if row["model"] == model), key=lambda row: row["median_ms"])
        name = model.removeprefix("efficientnet-")
        options: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "parse_math": False}
        ms, top_1 = fastest["median_ms"], fastest["top_1"]
        if top_1 is None:
            place: dict[str, Any] = {
                "xycoords": ("data", "axes fraction"),
                "xytext": (-3, 4),
                "rotation": 90,
                "va": "bottom",
            }
            axes.annotate(name, (ms, 0), fontsize="small", **place, **options)
        else:
            axes.annotate(name, (ms, top_1), xytext=(-4, 6), **options)


def _scale_latency(axes, milliseconds):
    """Makes the axis logarithmic, with numbers on it however narrow it is."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = min(milliseconds) / 1.15, max(milliseconds) * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(6) if high / low < 10 else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _align(lines, left) -> list[str]:
    """Returns lines of text with aligned columns: the first `left` columns flush left, the others flush right."""
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _format(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
