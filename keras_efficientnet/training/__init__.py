"""Training: a `TrainConfig` becomes a trained, evaluated and exported model."""

from keras_efficientnet.training.loop import run
from keras_efficientnet.training.predict_mode import predict
from keras_efficientnet.training.preemption import Preempted
from keras_efficientnet.training.preview_mode import preview

__all__ = ["Preempted", "predict", "preview", "run"]
