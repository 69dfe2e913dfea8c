"""A model -> SavedModel, TFLite, ONNX or OpenVINO, compared with the model before it counts; and back, to call it."""

from keras_efficientnet.export.comparing import Classifier
from keras_efficientnet.export.files import check_target, count_bytes, is_saved_model, replacing
from keras_efficientnet.export.interchange import load_onnx, load_openvino, to_onnx, to_openvino
from keras_efficientnet.export.models import load_model
from keras_efficientnet.export.saved_model import load_saved_model, to_saved_model
from keras_efficientnet.export.tflite import load_tflite, to_tflite

__all__ = [
    "Classifier",
    "check_target",
    "count_bytes",
    "is_saved_model",
    "load_model",
    "load_onnx",
    "load_openvino",
    "load_saved_model",
    "load_tflite",
    "replacing",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
]
