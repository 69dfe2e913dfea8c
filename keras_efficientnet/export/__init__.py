"""Exporters: a trained model becomes a file for other programs, which is compared with the model before it is kept.

Example:
    >>> import keras
    >>> from keras_efficientnet import export
    >>> inputs = keras.Input((32, 32, 3))
    >>> features = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    >>> model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(features))
    >>> images = export.load_images(model, None, "sample", count=2).pixels
    >>> for write, load, path in [
    ...     (export.to_saved_model, export.load_saved_model, "saved_model"),
    ...     (export.to_tflite, export.load_tflite, "model.tflite"),
    ...     (export.to_onnx, export.load_onnx, "model.onnx"),
    ...     (export.to_openvino, export.load_openvino, "openvino"),
    ... ]:
    ...     assert write(model, path) < 1e-4  # largest difference between the probabilities of file and model
    ...     assert load(path)(images).shape == (2, 10)
    >>> model.save("model.keras")
    >>> report = export.export_file("model.keras", "measured.tflite", "tflite", images="sample", image_count=20)
    >>> report.agreement
    1.0

`to_web` and `export_page` need LiteRT.js from the npm registry: see docs/export.md.
"""

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
from keras_efficientnet.labels import read_labels
from keras_efficientnet.runs import find_labels
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
