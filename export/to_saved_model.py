"""Writes a trained network as a SavedModel for TensorFlow Hub and Serving: it serves, and trains on, on its own.

Its signatures take pixels (serving_default) and JPEGs or PNGs (image_bytes), cropped and resized as the run did. The
names of the classes come from the run, too.

Example, after `python main.py`:
  python export/to_saved_model.py --model=runs/efficientnet-b0 --output=runs/b0_saved_model
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The folder to write.", required=True)
flags.DEFINE_string(
    "labels", None, "Text file with the names of the classes, one per line; those of the run if not given."
)
flags.DEFINE_bool(
    "feature_vector", False, "Leave out the classifier: what the last pooling gives, of images of any size."
)
flags.DEFINE_float("weight_decay", 1e-5, "Of the kernels, for those who train it on.", lower_bound=0.0)
flags.DEFINE_string(
    "images", None, "What to measure on: image files, a folder of them or of class folders, records, or sample."
)
flags.DEFINE_integer("image_count", 500, "How many to measure on, at most.", lower_bound=1)
flags.DEFINE_float("least_agreement", None, "Share of the images on which file and model must agree; 0.99 by default.")
flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is there.")
OPTIONS = ("feature_vector", "weight_decay", "labels", "images", "image_count", "least_agreement", "overwrite")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_saved_model.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    options = {name: FLAGS[name].value for name in OPTIONS}
    try:
        import keras  # noqa: F401  first: keras_efficientnet then registers its layers

        from keras_efficientnet import export

        report = export.export_file(FLAGS.model, FLAGS.output, "saved_model", **options)
    except KeyboardInterrupt:
        sys.exit("to_saved_model.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_saved_model.py: {' '.join(str(error).split())}")
    print(export.table(report))


if __name__ == "__main__":
    app.run(main)
