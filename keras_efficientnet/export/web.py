"""Writes a model as a folder with a web page that classifies images in the browser, offline."""

import html
import importlib.resources
import json
import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_efficientnet.export.agreement import name_outputs
from keras_efficientnet.export.npm import RUNTIME, read_runtime
from keras_efficientnet.export.preparation import check_labels, check_model
from keras_efficientnet.export.tflite import to_tflite
from keras_efficientnet.files import check_target, replacing
from keras_efficientnet.preprocessing import CROP_PADDING

PAGE = ("index.html", "page.js", "preprocessing.js", "style.css", "icon.svg")
LICENCE = "LICENSE-runtime.txt"
LABELS, MODEL = "labels.txt", "model.tflite"  # page.js names these
TITLE = "What is in the image?"
INTERPOLATIONS = ("bicubic", "bilinear")
# Package files -> their places in the page's folder, which index.html and page.js name.
PLACES = {
    "@litertjs/core/dist/": "runtime/core/",
    "@litertjs/core/package.json": "runtime/core/package.json",
    "@litertjs/core/wasm/": "runtime/wasm/",
    "@litertjs/wasm-utils/dist/": "runtime/wasm-utils/",
    "@litertjs/wasm-utils/package.json": "runtime/wasm-utils/package.json",
}


def to_web(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    runtime: str | os.PathLike[str] | None = None,
    title: str | None = None,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    half_pixel_centers: bool = False,
    overwrite: bool = False,
) -> float:
    """Writes a static folder with the model as a TFLite file and a page that classifies images; complete or not at all.

    The page runs in browsers of 2023 or later, from any web server, without internet access. It crops and resizes like
    `preprocessing.image_for_evaluation`, and rotates photos as their EXIF data say. Its content security policy allows
    requests to its own server only.

    Args:
        model: a classifier of square RGB images of one size.
        path: folder to write.
        labels: class names in order, for `labels.txt`; by default "class 0" and so on.
        runtime: folder with the packages of `npm.RUNTIME`, as `npm pack` writes them; by default they are downloaded.
        title: title of the page; by default "What is in the image?".
        crop_fraction: share of the shorter side that the network sees; see `image_for_evaluation`.
        interpolation: "bicubic" or "bilinear".
        half_pixel_centers: grid of the resizing; see `image_for_evaluation`.
        overwrite: whether to replace an existing page.

    Returns:
        The largest difference between a probability of the file and the model's, on random images.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or it is no page.
        FileNotFoundError: the packages are not in `runtime`.
        ConnectionError: the download failed; the message says what was tried.
        ValueError: the model or an option is invalid, or the packages are not the published ones.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    check_model(model)
    check_labels(model, labels)
    check_target(path, overwrite, is_page)
    settings = _make_settings(model, crop_fraction, interpolation, half_pixel_centers)
    names = labels or [f"class {number}" for number in range(model.output_shape[-1])]
    runtime_files = read_runtime(runtime)
    with replacing(path, overwrite, is_ours=is_page) as new:
        _write_page(new, title or TITLE, settings, names)
        _write_runtime(new, runtime_files)
        return to_tflite(model, new / MODEL)


def is_page(path: Path) -> bool:
    """Returns whether a folder is empty or was written by `to_web`."""
    return path.is_dir() and (not any(path.iterdir()) or all((path / name).is_file() for name in PAGE))


def _make_settings(model, crop_fraction, interpolation, half_pixel_centers) -> dict[str, Any]:
    """Returns the settings that page.js reads."""
    height, width, channels = model.input_shape[1:]
    if height is None or height != width or channels != 3:
        raise ValueError(
            f"The page needs a network for square RGB images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with `input_shape=(224, 224, 3)`, for example."
        )
    if name_outputs(model) != "probabilities":
        raise ValueError(
            f"The page shows probabilities, and {model.name} gives none. Let it end in a softmax: "
            "`classifier_activation`."
        )
    if crop_fraction is not None and not 0 < crop_fraction <= 1:
        raise ValueError(f"`crop_fraction` must be in (0, 1]. Received: crop_fraction={crop_fraction}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}. Received: {interpolation!r}")
    return {
        "network": model.name,
        "resolution": height,
        "crop_fraction": crop_fraction or height / (height + CROP_PADDING),
        "interpolation": interpolation,
        "half_pixel_centers": half_pixel_centers,
        "runtime": f"LiteRT.js {RUNTIME[0].version}",
    }


def _write_page(folder, title, settings, labels) -> None:
    folder.mkdir()
    sources = importlib.resources.files("keras_efficientnet") / "data" / "web"
    for name in PAGE:
        (folder / name).write_bytes((sources / name).read_bytes())
    page = string.Template((sources / "index.html").read_text("utf-8")).substitute(title=html.escape(title))
    (folder / "index.html").write_text(page, "utf-8", newline="\n")
    (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8", newline="\n")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "LICENSE.txt").write_bytes((sources / LICENCE).read_bytes())


def _write_runtime(folder, files) -> None:
    for name, content in files.items():
        [source] = [start for start in PLACES if name.startswith(start)]
        target = folder / (PLACES[source] + name.removeprefix(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
