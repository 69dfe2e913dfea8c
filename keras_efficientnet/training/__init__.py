"""Training: trains, evaluates and exports the model that a `TrainConfig` describes."""

from keras_efficientnet.runs import Preempted
from keras_efficientnet.training.loop import run
from keras_efficientnet.training.predict_mode import predict
from keras_efficientnet.training.preview_mode import preview

__all__ = ["Preempted", "predict", "preview", "run"]
