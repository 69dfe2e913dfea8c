"""Writes weights of any origin, or published weights, as a file of another kind, and reports what was mapped.

The ending of --output chooses the kind: .weights.h5 and .keras of this package, .safetensors with timm's names, .h5 for
keras.applications; a path without an ending becomes a SavedModel.

Example, after `python main.py`:
  python export/convert_weights.py --weights=runs/efficientnet-b0 --output=b0.safetensors
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import command
from absl import flags

from keras_efficientnet import preflight
from keras_efficientnet.architectures import find_variant
from keras_efficientnet.files import check_target

if TYPE_CHECKING:
    from keras_efficientnet.export.weight_files import Converted

FLAGS = flags.FLAGS
flags.DEFINE(
    command.PATH, "weights", None, "File or folder of weights, or the name of published weights.", required=True
)
flags.DEFINE_string("model_name", None, "The network, efficientnet-b0 or timm's name; a run names its own.")
flags.DEFINE(command.PATH, "output", None, "The file to write, or the folder of a SavedModel.", required=True)
flags.DEFINE_string(
    "source", None, "Origin of the weights (timm, torchvision, tf1, ...), if their names are ambiguous."
)
flags.DEFINE_bool("average", True, "Use the averaged weights if the file has any.")
flags.DEFINE_integer("classes", None, "Classes of the network; by default those of the file.", lower_bound=1)
flags.DEFINE_string("verify", "", "Images to classify: files, folders and patterns, separated by commas.")
flags.DEFINE_bool("overwrite", False, "Replace an existing file or SavedModel.")


def describe(converted: "Converted", output: str) -> list[str]:
    """Returns the report on a conversion, in lines of text."""
    mapped = converted.mapped
    lines = [f"{mapped.source}: weights of {mapped.origin}; {mapped.filled} arrays filled"]
    if mapped.left_out:
        lines.append(f"left out: {', '.join(summarize(mapped.left_out))}")
    lines += [f"note: {adaptation}" for adaptation in mapped.adaptations]
    checked = f"read back, all {converted.equal} arrays are equal" if converted.equal else "gives the same outputs"
    lines.append(f"{output}: {converted.bytes / 1e6:.1f} MB; {checked}")
    for prediction in converted.predictions:
        lines.append(prediction.file)
        lines += [f"{i:4} {100 * share:7.2f}%  {name}" for i, (name, share) in enumerate(prediction.top, start=1)]
    return lines


def summarize(names: Sequence[str], most: int = 3) -> list[str]:
    """Returns names in full, except that more than `most` with the same end become "49 of *num_batches_tracked"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.split(r"[./]", name)[-1], []).append(name)
    short = [group if len(group) <= most else [f"{len(group)} of *{end}"] for end, group in groups.items()]
    return [name for group in short for name in group]


def check() -> None:
    if FLAGS.model_name:
        find_variant(FLAGS.model_name)
    preflight.check_weights(FLAGS.weights, FLAGS.model_name)
    preflight.check_images(FLAGS.verify)
    preflight.find_ending(FLAGS.output)
    check_target(FLAGS.output, FLAGS.overwrite, is_ours=lambda path: True)


def main() -> list[str]:
    from keras_efficientnet.export import weight_files

    converted = weight_files.convert_file(
        FLAGS.weights,
        FLAGS.model_name,
        FLAGS.output,
        origin=FLAGS.source,
        average=FLAGS.average,
        classes=FLAGS.classes,
        images=FLAGS.verify,
        overwrite=FLAGS.overwrite,
    )
    return describe(converted, FLAGS.output)


if __name__ == "__main__":
    command.run(main, check)
