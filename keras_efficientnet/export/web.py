"""A model -> a folder with a page that classifies pictures in the browser, without a network, and sends nothing."""

import html
import importlib.resources
import json
import os
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_efficientnet.export.npm import RUNTIME, read_runtime
from keras_efficientnet.export.preparation import check_labels, check_model
from keras_efficientnet.export.tflite import to_tflite
from keras_efficientnet.files import check_target, replacing
from keras_efficientnet.preprocessing import CROP_PADDING

PAGE = ("index.html", "page.js", "preprocessing.js", "style.css", "icon.svg")
LICENCE = "LICENSE-runtime.txt"
TITLE = "What is in the picture?"
INTERPOLATIONS = ("bicubic", "bilinear")
# Where the files of the packages stand in the page's folder: index.html and page.js name these.
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
    """Writes a static folder with the model as TFLite file and a page that names what is in a picture.

    The page runs in any browser of 2023 or later, from any web server, without a network. It crops and resizes as
    `preprocessing.image_for_evaluation`, but turns photos upright as their EXIF says. Its content security policy
    allows requests to its own server alone. Either the whole folder comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier of square RGB images of one size.
        path: of the folder to write.
        labels: names of the classes, in order, for `labels.txt`; "class 0" and so on by default.
        runtime: folder with the packages of `npm.RUNTIME`, as `npm pack` leaves them; by default they are fetched.
        title: of the page; "What is in the picture?" by default.
        crop_fraction: share of the shorter side that the network sees; as in `image_for_evaluation`.
        interpolation: "bicubic" or "bilinear".
        half_pixel_centers: the grid, as there.
        overwrite: whether to replace such a folder that is there.

    Returns:
        The largest difference between a probability of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no such folder.
        FileNotFoundError: the packages are not in `runtime`.
        ConnectionError: the packages could not be fetched; the message says what was tried.
        ValueError: the model or an option does not fit, or the packages are not those published.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
    """
    check_model(model)
    check_labels(model, labels)
    check_target(path, overwrite, is_page)
    settings = _make_settings(model, crop_fraction, interpolation, half_pixel_centers)
    names = labels or [f"class {number}" for number in range(model.output_shape[-1])]
    vendored = read_runtime(runtime)
    with replacing(path, overwrite, is_ours=is_page) as new:
        _write_page(new, title or TITLE, settings, names)
        _write_runtime(new, vendored)
        return to_tflite(model, new / "model.tflite")


def is_page(path: Path) -> bool:
    """Whether there is an empty folder, or one that `to_web` wrote."""
    return path.is_dir() and (not any(path.iterdir()) or all((path / name).is_file() for name in PAGE))


def _make_settings(model, crop_fraction, interpolation, half_pixel_centers) -> dict[str, Any]:
    """What the page reads; its keys stand in page.js."""
    height, width, channels = model.input_shape[1:]
    if height is None or height != width or channels != 3:
        raise ValueError(
            f"The page gives a network square RGB images of one size. {model.name} takes {model.input_shape[1:]}: "
            "build it with `input_shape=(224, 224, 3)`, for example."
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
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), "utf-8", newline="\n")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    (folder / "runtime").mkdir()
    (folder / "runtime" / "LICENSE.txt").write_bytes((sources / LICENCE).read_bytes())


def _write_runtime(folder, vendored) -> None:
    for name, content in vendored.items():
        [source] = [start for start in PLACES if name.startswith(start)]
        target = folder / (PLACES[source] + name.removeprefix(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
