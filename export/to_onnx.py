"""Writes a trained network as an ONNX file, or as OpenVINO's pair of files in a folder: float32.

Example, after `python main.py`:
  python export/to_onnx.py --model=runs/efficientnet-b0 --output=runs/b0.onnx
  python export/to_onnx.py --format=openvino --model=runs/efficientnet-b0 --output=runs/b0_openvino
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FORMATS = ("onnx", "openvino")
FLAGS = flags.FLAGS
flags.DEFINE_string("format", "onnx", f"What to write: {' or '.join(FORMATS)}.")
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The file to write, or the folder for OpenVINO.", required=True)
flags.DEFINE_string("labels", None, "Text file with the names of the classes, one per line and in order.")
flags.DEFINE_bool("dynamic_batch", True, "Take any number of images a call, in place of one.")
flags.DEFINE_bool("overwrite", False, "Replace what is there.")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_onnx.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    if FLAGS.format not in FORMATS:
        sys.exit(f"to_onnx.py: Unknown format {FLAGS.format!r}. Choose one of: {', '.join(FORMATS)}")
    import keras  # noqa: F401  first: keras_efficientnet then registers its layers

    from keras_efficientnet import export

    try:
        labels = Path(FLAGS.labels).read_text("utf-8").splitlines() if FLAGS.labels else None
        model = export.load_model(FLAGS.model)
        options = {"labels": labels, "dynamic_batch": FLAGS.dynamic_batch, "overwrite": FLAGS.overwrite}
        write = export.to_onnx if FLAGS.format == "onnx" else export.to_openvino
        difference = write(model, FLAGS.output, **options)
    except KeyboardInterrupt:
        sys.exit("to_onnx.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_onnx.py: {' '.join(str(error).split())}")
    size = export.count_bytes(FLAGS.output)
    print(f"{FLAGS.output}: {size / 1e6:.1f} MB; probabilities differ from the model's by up to {difference:.2g}")


if __name__ == "__main__":
    app.run(main)
