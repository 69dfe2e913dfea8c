"""Writes a folder of class folders as TFRecords in the official ImageNet layout, for `main.py --dataset=records`.

Example; the folder has train/ and validation/, or class folders of which every tenth picture is then held out:
  python export/to_records.py --folder=flowers --output=flowers_records
  python main.py --data_dir=flowers_records
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "The folder with the pictures, local or gs://.", required=True)
flags.DEFINE_string("output", None, "The folder to write, local or gs://. The same command goes on.", required=True)
flags.DEFINE_integer("train_files", None, "Files to train on; at most 1252 pictures each by default.", lower_bound=1)
flags.DEFINE_integer("validation_files", None, "Files to evaluate on; at most 391 each by default.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the order of the training pictures.")
flags.DEFINE_integer("processes", None, "Files that are written at once; one a processor by default.", lower_bound=1)
flags.DEFINE_boolean("keep_png", False, "Leave PNGs as they are; they become JPEGs by default, as the official ones.")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_records.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    from keras_efficientnet.datasets import shards

    try:
        images = shards.write_records(
            FLAGS.folder,
            FLAGS.output,
            train_files=FLAGS.train_files,
            validation_files=FLAGS.validation_files,
            seed=FLAGS.seed,
            processes=FLAGS.processes,
            keep_png=FLAGS.keep_png,
        )
    except KeyboardInterrupt:
        sys.exit("to_records.py: stopped. The same command goes on.")
    except (OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_records.py: {error}")
    print(f"{FLAGS.output}: {images['train']} pictures to train on, {images['validation']} to evaluate on")


if __name__ == "__main__":
    app.run(main)
