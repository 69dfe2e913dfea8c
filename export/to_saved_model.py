"""Writes a trained network as a SavedModel for TensorFlow Hub and Serving, which can also be trained.

Its signatures take pixels (serving_default) and encoded images (image_bytes), which are cropped and resized as in the
run. The class names come from the run, too.

Example, after `python main.py`:
  python export/to_saved_model.py --model=runs/efficientnet-b0 --output=runs/b0_saved_model
"""

import command
from absl import flags

FLAGS = flags.FLAGS
command.define_source_flags("The folder to write.")
command.define_measurement_flags()
flags.adopt_module_key_flags(command)
flags.DEFINE_bool("feature_vector", False, "Write the features of the last pooling instead of a classifier.")
flags.DEFINE_float("weight_decay", 1e-5, "Weight decay of the kernels when the SavedModel is trained.", lower_bound=0.0)


def main() -> list[str]:
    return command.export_model("saved_model", feature_vector=FLAGS.feature_vector, weight_decay=FLAGS.weight_decay)


if __name__ == "__main__":
    command.run(main, check=lambda: command.check_export("saved_model"))
