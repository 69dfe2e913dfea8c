"""Writes a trained network as an ONNX file, or as OpenVINO's pair of files in a folder, in float32.

Examples, after `python main.py`:
  python export/to_onnx.py --model=runs/efficientnet-b0 --output=runs/b0.onnx
  python export/to_onnx.py --format=openvino --model=runs/efficientnet-b0 --output=runs/b0_openvino
"""

import command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("format", "onnx", ["onnx", "openvino"], "The format to write.")
command.define_source_flags("The file to write, or the folder for OpenVINO.")
command.define_measurement_flags()
flags.adopt_module_key_flags(command)
flags.DEFINE_bool("dynamic_batch", True, "Accept any number of images per call instead of one.")


def main() -> list[str]:
    return command.export_model(FLAGS.format, dynamic_batch=FLAGS.dynamic_batch)


if __name__ == "__main__":
    command.run(main, check=lambda: command.check_export(FLAGS.format))
