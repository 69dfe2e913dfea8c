"""The examples in the docstrings of the package run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import keras_efficientnet
from keras_efficientnet import export

PACKAGE = Path(keras_efficientnet.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]


def name_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


# each trains a network: a quarter of a minute that tests/test_training.py and tests/test_predictions.py also guard
TRAINING = ("keras_efficientnet.training.loop", "keras_efficientnet.training.predict_mode")


def slow_if_it_trains(name):
    return pytest.param(name, marks=[pytest.mark.slow] if name in TRAINING else [])


@pytest.mark.parametrize("name", [slow_if_it_trains(name_of(path)) for path in MODULES])
def test_examples_print_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted and not tried.failed


BUILDERS = [name for name in keras_efficientnet.__all__ if name.startswith("EfficientNet")]


@pytest.mark.parametrize("name", ["EfficientNetB0", *sorted(set(keras_efficientnet.__all__) - set(BUILDERS))])
def test_every_public_function_has_an_example(name):
    """The builders share one docstring."""
    assert ">>> " in getattr(keras_efficientnet, name).__doc__


@pytest.mark.parametrize("name", export.__all__)
def test_every_exporter_and_loader_is_in_an_example(name):
    needs_npm = {"to_web", "export_page"}
    if name.startswith(("to_", "load_", "export_")) and name not in needs_npm:
        function = getattr(export, name)
        assert ">>> " in function.__doc__ or f"export.{name}" in export.__doc__
