"""Sphinx: the site from these pages and the docstrings. `sphinx-build -W --keep-going docs build/docs`."""

import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the package imports TensorFlow

import keras_efficientnet

project = "keras_efficientnet"
author = "The keras_efficientnet authors"
copyright = author
version = release = keras_efficientnet.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "EfficientNet for Keras 3"
autodoc_typehints = "description"  # types appear beside each argument
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
highlight_language = "none"  # commands are plain text; Python blocks name their language


def from_markdown(app, what, name, obj, options, lines: list[str]) -> None:
    """Turns the Markdown of the docstrings into reStructuredText, before napoleon reads their sections."""
    for number, line in enumerate(lines):
        star = re.match(r" *\*{0,2}", line)[0]  # **arguments: napoleon escapes these
        pieces = re.split(r"(?<!`)(`[^`]+`)(?!`)", line[len(star) :])
        lines[number] = star + "".join(_code(piece) if piece[:1] == "`" else _text(piece) for piece in pieces)
        if number and lines[number - 1].strip() == "Returns:":  # no type before the first colon: annotations have it
            lines[number] = re.sub(r"^( *)", r"\1: ", lines[number])


def _code(text: str) -> str:
    return rf"\ `{text}`\ "  # the escaped blanks vanish, and allow letters on both sides


def _text(text: str) -> str:
    return re.sub(r"([*]|(?<=\w)_(?!\w))", r"\\\1", text)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
