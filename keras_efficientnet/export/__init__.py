"""A model -> a file for other programs, compared with the model before it takes its place; and back, to call it."""

from keras_efficientnet.export.agreement import Classifier
from keras_efficientnet.export.folding import fold_batch_norms
from keras_efficientnet.export.formats import export_file
from keras_efficientnet.export.images import Images, load_images
from keras_efficientnet.export.interchange import load_onnx, load_openvino, to_onnx, to_openvino
from keras_efficientnet.export.measurement import Report, measured, table
from keras_efficientnet.export.pixels import Reader, find_reader, find_resampling
from keras_efficientnet.export.preparation import load_model
from keras_efficientnet.export.saved_model import load_saved_model, to_saved_model
from keras_efficientnet.export.tflite import load_tflite, to_tflite
from keras_efficientnet.export.web import to_web
from keras_efficientnet.files import Rejected, check_target, count_bytes, is_saved_model, replacing
from keras_efficientnet.runs import find_labels, read_labels

__all__ = [
    "Classifier",
    "Images",
    "Reader",
    "Rejected",
    "Report",
    "check_target",
    "count_bytes",
    "export_file",
    "find_labels",
    "find_reader",
    "find_resampling",
    "fold_batch_norms",
    "is_saved_model",
    "load_images",
    "load_model",
    "load_onnx",
    "load_openvino",
    "load_saved_model",
    "load_tflite",
    "measured",
    "read_labels",
    "replacing",
    "table",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
    "to_web",
]
