"""Writes a trained network as a SavedModel, which serves, and trains on, without this package.

Example, after `python main.py`:
  python export/to_saved_model.py --model=runs/efficientnet-b0 --output=runs/b0_saved_model
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The folder to write.", required=True)
flags.DEFINE_string("labels", None, "Text file with the names of the classes, one per line and in order.")
flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that is there.")


def main(_) -> None:
    import keras  # noqa: F401  first: keras_efficientnet then registers its layers

    from keras_efficientnet import export

    try:
        labels = Path(FLAGS.labels).read_text("utf-8").splitlines() if FLAGS.labels else None
        model = export.load_model(FLAGS.model)
        difference = export.to_saved_model(model, FLAGS.output, labels=labels, overwrite=FLAGS.overwrite)
    except KeyboardInterrupt:
        sys.exit("to_saved_model.py: stopped. Nothing was written.")
    except (OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_saved_model.py: {error}")
    size = export.count_bytes(FLAGS.output)
    print(f"{FLAGS.output}: {size / 1e6:.1f} MB; probabilities differ from the model's by up to {difference:.2g}")


if __name__ == "__main__":
    app.run(main)
