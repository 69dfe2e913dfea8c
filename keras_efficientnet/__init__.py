"""EfficientNet for Keras 3: models, training, export. Lists every public name, and loads its module on first use.

`from keras_efficientnet import architectures, profiling` needs neither TensorFlow nor Keras.
"""

import importlib
from typing import Any

from keras_efficientnet.import_hook import register_layers

__version__ = "0.1.0"

_HOME = {  # public name -> its module
    "EfficientNetB0": "models",
    "EfficientNetB1": "models",
    "EfficientNetB2": "models",
    "EfficientNetB3": "models",
    "EfficientNetB4": "models",
    "EfficientNetB5": "models",
    "EfficientNetB6": "models",
    "EfficientNetB7": "models",
    "EfficientNetB8": "models",
    "EfficientNetL2": "models",
    "EfficientNetCondConvB0_4E": "models",
    "EfficientNetCondConvB0_8E": "models",
    "EfficientNetCondConvB1_8E": "models",
    "EfficientNetB1Pruned": "models",
    "EfficientNetB2Pruned": "models",
    "EfficientNetB3Pruned": "models",
    "EfficientNetLite0": "models",
    "EfficientNetLite1": "models",
    "EfficientNetLite2": "models",
    "EfficientNetLite3": "models",
    "EfficientNetLite4": "models",
    "EfficientNetEdgeTPUS": "models",
    "EfficientNetEdgeTPUM": "models",
    "EfficientNetEdgeTPUL": "models",
    "EfficientNetB0Torch": "models",
    "EfficientNetB1Torch": "models",
    "EfficientNetB2Torch": "models",
    "EfficientNetB3Torch": "models",
    "EfficientNetB4Torch": "models",
    "EfficientNetB5Torch": "models",
    "EfficientNetB6Torch": "models",
    "EfficientNetB7Torch": "models",
    "create_model": "models",
    "decode_predictions": "models",
    "features": "models",
    "list_models": "models",
    "list_pretrained": "weights.pretrained",
    "load_model": "export",
    "load_weights": "weights.loading",
    "preprocess_input": "models",
    "profile": "profiling",
    "tune_cpu": "cpu",
}
_MODULES = ("export", "training")  # available after `import keras_efficientnet`
__all__ = [*_HOME]

register_layers()  # for keras.saving.load_model


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__, *_MODULES]
