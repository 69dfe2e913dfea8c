"""A model -> a file for other programs, compared with the model before it takes its place; and back, to call it."""

from keras_efficientnet.export.comparing import Classifier
from keras_efficientnet.export.files import check_target, count_bytes, is_saved_model, replacing
from keras_efficientnet.export.interchange import load_onnx, load_openvino, to_onnx, to_openvino
from keras_efficientnet.export.models import load_model
from keras_efficientnet.export.runs import Reader, find_labels, find_reader, find_resampling, read_labels
from keras_efficientnet.export.saved_model import load_saved_model, to_saved_model
from keras_efficientnet.export.tflite import load_tflite, to_tflite
from keras_efficientnet.export.web import to_web

__all__ = [
    "Classifier",
    "Reader",
    "check_target",
    "count_bytes",
    "find_labels",
    "find_reader",
    "find_resampling",
    "is_saved_model",
    "load_model",
    "load_onnx",
    "load_openvino",
    "load_saved_model",
    "load_tflite",
    "read_labels",
    "replacing",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
    "to_web",
]
