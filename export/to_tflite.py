"""Writes a trained network as a TFLite file for phones and browsers, in float32 or quantised.

Example, after `python main.py`:
  python export/to_tflite.py --model=runs/efficientnet-b0 --output=runs/b0.tflite --quantize=float16
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
flags.DEFINE_bool("overwrite", False, "Replace a file that is there.")


def main(_) -> None:
    import keras  # noqa: F401  first: keras_efficientnet then registers its layers

    from keras_efficientnet import export

    try:
        model = export.load_model(FLAGS.model)
        difference = export.to_tflite(
            model,
            FLAGS.output,
            quantize=FLAGS.quantize,
            input_dtype=FLAGS.input_dtype,
            dynamic_batch=FLAGS.dynamic_batch,
            overwrite=FLAGS.overwrite,
        )
    except KeyboardInterrupt:
        sys.exit("to_tflite.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_tflite.py: {error}")
    size = export.count_bytes(FLAGS.output)
    print(f"{FLAGS.output}: {size / 1e6:.1f} MB; probabilities differ from the model's by up to {difference:.2g}")


if __name__ == "__main__":
    app.run(main)
