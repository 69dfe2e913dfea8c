"""Writes weights of any origin, or published ones, as a file of another kind, and says what was mapped.

The ending of --output tells the kind: .weights.h5 and .keras of this package, .safetensors with timm's names, .h5 as
keras.applications takes it; a path without ending becomes a SavedModel.

Example, after `python main.py`:
  python export/convert_weights.py --weights=runs/efficientnet-b0 --output=b0.safetensors
"""

import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "File or folder of weights, or the name of published ones.", required=True)
flags.DEFINE_string("model_name", None, "The network they are of, efficientnet-b0 or as timm calls it; a run says it.")
flags.DEFINE_string("output", None, "The file to write, or the folder of a SavedModel.", required=True)
flags.DEFINE_string("source", None, "Whose weights they are (timm, torchvision, tf1, ...), if their names do not tell.")
flags.DEFINE_bool("average", True, "Take the averaged weights, where there are any.")
flags.DEFINE_integer("classes", None, "Classes of the network; by default those of the file.", lower_bound=1)
flags.DEFINE_string("verify", "", "Images to classify: files, folders and patterns, separated by commas.")
flags.DEFINE_bool("overwrite", False, "Replace a file or SavedModel that is there.")


def describe(converted, output: str) -> list[str]:
    """The report on a conversion, in lines of text."""
    mapped = converted.mapped
    lines = [f"{mapped.source}: weights of {mapped.origin}; {mapped.filled} arrays filled"]
    if mapped.left_out:
        lines.append(f"left out: {', '.join(sum_up(mapped.left_out))}")
    lines += [f"note: {adaption}" for adaption in mapped.adaptions]
    checked = f"read back, all {converted.equal} arrays are equal" if converted.equal else "gives the same outputs"
    lines.append(f"{output}: {converted.bytes / 1e6:.1f} MB; {checked}")
    for prediction in converted.predictions:
        lines.append(prediction.file)
        lines += [f"{i:4} {100 * share:7.2f}%  {name}" for i, (name, share) in enumerate(prediction.top, start=1)]
    return lines


def sum_up(names: tuple[str, ...], most: int = 3) -> list[str]:
    """Names in full; those of which more than `most` end alike as "49 of *num_batches_tracked"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.split(r"[./]", name)[-1], []).append(name)
    alike = [group if len(group) <= most else [f"{len(group)} of *{end}"] for end, group in groups.items()]
    return [name for group in alike for name in group]


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"convert_weights.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    import keras  # noqa: F401  first: keras_efficientnet then registers its layers

    from keras_efficientnet.export import weight_files

    options = {"origin": FLAGS.source, "average": FLAGS.average, "classes": FLAGS.classes, "images": FLAGS.verify}
    try:
        converted = weight_files.convert_file(
            FLAGS.weights, FLAGS.model_name, FLAGS.output, overwrite=FLAGS.overwrite, **options
        )
    except KeyboardInterrupt:
        sys.exit("convert_weights.py: stopped. Nothing was written.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"convert_weights.py: {' '.join(str(error).split())}")
    print("\n".join(describe(converted, FLAGS.output)))


if __name__ == "__main__":
    app.run(main)
