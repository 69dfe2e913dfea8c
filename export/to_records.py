"""Writes class folders as TFRecords in the official ImageNet layout, for `main.py --dataset=records`.

Example; the folder has train/ and validation/, or class folders of which every tenth image is then held out:
  python export/to_records.py --folder=flowers --output=flowers_records
  python main.py --data_dir=flowers_records
"""

import command
from absl import flags

from keras_efficientnet import preflight

FLAGS = flags.FLAGS
flags.DEFINE(command.PATH, "folder", None, "The folder with the images, local or gs://.", required=True)
flags.DEFINE(command.PATH, "output", None, "The folder to write, local or gs://. Run again to resume.", required=True)
flags.DEFINE_integer("train_files", None, "Training files; by default with at most 1252 images each.", lower_bound=1)
flags.DEFINE_integer("validation_files", None, "Validation files; by default at most 391 images each.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed for the order of the training images.")
flags.DEFINE_integer("processes", None, "Files written in parallel; by default one per processor.", lower_bound=1)
flags.DEFINE_boolean("keep_png", False, "Keep PNGs; by default they become JPEGs, as in the official files.")


def check() -> None:
    preflight.check_path(FLAGS.folder, "folder")


def main() -> list[str]:
    from keras_efficientnet.datasets import shards

    images = shards.write_records(
        FLAGS.folder,
        FLAGS.output,
        train_files=FLAGS.train_files,
        validation_files=FLAGS.validation_files,
        seed=FLAGS.seed,
        processes=FLAGS.processes,
        keep_png=FLAGS.keep_png,
    )
    return [f"{FLAGS.output}: {images['train']} images to train on, {images['validation']} to evaluate on"]


if __name__ == "__main__":
    command.run(main, check, stopped="Run the same command to resume.")
