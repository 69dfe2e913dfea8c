"""Exports a model to a file for other programs, and compares the file with the model before it counts as written."""

from keras_efficientnet.export.agreement import Agreement, Classifier, compare
from keras_efficientnet.export.folding import fold_batch_norms
from keras_efficientnet.export.formats import FORMATS, Options
from keras_efficientnet.export.images import Images, load_images
from keras_efficientnet.export.measurement import Report, format_report, score_files, write_measured
from keras_efficientnet.export.onnx import to_onnx
from keras_efficientnet.export.openvino import to_openvino
from keras_efficientnet.export.pixels import Reader, find_reader, find_resampling
from keras_efficientnet.export.preparation import load_model
from keras_efficientnet.export.saved_model import is_saved_model, to_saved_model
from keras_efficientnet.export.tflite import to_tflite
from keras_efficientnet.export.web import to_web
from keras_efficientnet.export.workflow import export_file, export_page
from keras_efficientnet.files import RejectedFileError, check_target, count_bytes, replacing
from keras_efficientnet.runs import find_labels, read_labels
from keras_efficientnet.runtimes.networks import Network, load_onnx, load_openvino, load_saved_model, load_tflite

__all__ = [
    "Agreement",
    "Classifier",
    "FORMATS",
    "Images",
    "Network",
    "Options",
    "Reader",
    "RejectedFileError",
    "Report",
    "check_target",
    "compare",
    "count_bytes",
    "export_file",
    "export_page",
    "find_labels",
    "find_reader",
    "find_resampling",
    "fold_batch_norms",
    "format_report",
    "is_saved_model",
    "load_images",
    "load_model",
    "load_onnx",
    "load_openvino",
    "load_saved_model",
    "load_tflite",
    "read_labels",
    "replacing",
    "score_files",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
    "to_tflite",
    "to_web",
    "write_measured",
]
