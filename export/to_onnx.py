"""Writes a trained network as an ONNX file, or as OpenVINO's pair of files in a folder: float32.

Example, after `python main.py`:
  python export/to_onnx.py --model=runs/efficientnet-b0 --output=runs/b0.onnx
  python export/to_onnx.py --format=openvino --model=runs/efficientnet-b0 --output=runs/b0_openvino
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FORMATS = ("onnx", "openvino")
FLAGS = flags.FLAGS
flags.DEFINE_string("format", "onnx", f"What to write: {' or '.join(FORMATS)}.")
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The file to write, or the folder for OpenVINO.", required=True)
flags.DEFINE_string("labels", None, "Text file with the names of the classes, one per line; by default the run's.")
flags.DEFINE_bool("dynamic_batch", True, "Take any number of images a call, in place of one.")
flags.DEFINE_string(
    "images", None, "What to measure on: image files, a folder of them or of class folders, records, or sample."
)
flags.DEFINE_integer("image_count", 500, "How many to measure on, at most.", lower_bound=1)
flags.DEFINE_float("least_agreement", None, "Share of the images on which file and model must agree; 0.99 by default.")
flags.DEFINE_bool("overwrite", False, "Replace what is there.")
OPTIONS = ("dynamic_batch", "labels", "images", "image_count", "least_agreement", "overwrite")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_onnx.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    if FLAGS.format not in FORMATS:
        sys.exit(f"to_onnx.py: Unknown format {FLAGS.format!r}. Choose one of: {', '.join(FORMATS)}")
    options = {name: FLAGS[name].value for name in OPTIONS}
    try:
        import keras  # noqa: F401  first: keras_efficientnet then registers its layers

        from keras_efficientnet import export

        report = export.export_file(FLAGS.model, FLAGS.output, FLAGS.format, **options)
    except KeyboardInterrupt:
        sys.exit("to_onnx.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_onnx.py: {' '.join(str(error).split())}")
    print(export.table(report))


if __name__ == "__main__":
    app.run(main)
