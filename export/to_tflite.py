"""Writes a trained network as a TFLite file for phones and browsers, in float32 or quantized.

Example, after `python main.py`:
  python export/to_tflite.py --model=runs/efficientnet-b0 --quantize=float16 --output=runs/b0.tflite
"""

import command
from absl import flags

FLAGS = flags.FLAGS
command.define_source_flags("The file to write.")
command.define_measurement_flags("by default 0.97 for int8 and int16x8, else 0.99")
flags.adopt_module_key_flags(command)
QUANTIZATIONS = ["none", "float16", "dynamic", "int8", "int16x8"]
flags.DEFINE_enum("quantize", "none", QUANTIZATIONS, "Number format of the weights and of the computation.")
flags.DEFINE_enum("input_dtype", "float32", ["float32", "uint8"], "Type of the pixels; uint8 for the bytes of images.")
flags.DEFINE_bool("dynamic_batch", False, "Accept any number of images per call instead of one.")


def main() -> list[str]:
    return command.export_model(
        "tflite", quantize=FLAGS.quantize, input_dtype=FLAGS.input_dtype, dynamic_batch=FLAGS.dynamic_batch
    )


if __name__ == "__main__":
    command.run(main, check=lambda: command.check_export(FLAGS.quantize))
