"""Writes a trained network as a TFLite file for phones and browsers, in float32 or quantised.

Example, after `python main.py`:
  python export/to_tflite.py --model=runs/efficientnet-b0 --quantize=float16 --output=runs/b0.tflite
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The file to write.", required=True)
flags.DEFINE_string("quantize", "none", "none, float16, dynamic, int8 or int16x8.")
flags.DEFINE_string("input_dtype", "float32", "float32, or uint8 for the bytes of a picture as they are.")
flags.DEFINE_bool("dynamic_batch", False, "Take any number of images a call, in place of one.")
flags.DEFINE_string("labels", None, "Text file with the names of the classes, one per line; by default the run's.")
flags.DEFINE_string(
    "images", None, "What to measure on: image files, a folder of them or of class folders, records, or sample."
)
flags.DEFINE_integer("image_count", 500, "How many to measure on, at most.", lower_bound=1)
flags.DEFINE_float(
    "least_agreement", None, "Share of the images on which file and model must agree; 0.99, of int8 0.97."
)
flags.DEFINE_bool("overwrite", False, "Replace a file that is there.")
OPTIONS = (
    "quantize",
    "input_dtype",
    "dynamic_batch",
    "labels",
    "images",
    "image_count",
    "least_agreement",
    "overwrite",
)


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_tflite.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    try:
        import keras  # noqa: F401  first: keras_efficientnet then registers its layers

        from keras_efficientnet import export

        report = export.export_file(
            FLAGS.model, FLAGS.output, "tflite", **{name: FLAGS[name].value for name in OPTIONS}
        )
    except KeyboardInterrupt:
        sys.exit("to_tflite.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_tflite.py: {' '.join(str(error).split())}")
    print(export.table(report))


if __name__ == "__main__":
    app.run(main)
