"""Registers our layers for `keras.saving.load_model`, whichever of this package and Keras is imported first.

Importing Keras takes seconds, and `architectures`, `profiling` and `weights.pretrained` work without it. So importing
this package does not import Keras: the hook waits until the program does.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

LAYERS = "keras_efficientnet.layers"  # registers its classes when it is imported


def register_layers() -> None:
    """Registers the layers now if Keras was imported, else as soon as it is."""
    if sys.modules.get("keras"):
        importlib.import_module(LAYERS)
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as the other finders do, and registers the layers after Keras has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module  # the class's own again
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            importlib.import_module(LAYERS)

        loader.exec_module = execute_and_register
