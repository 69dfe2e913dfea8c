"""Trains, evaluates and exports EfficientNets. Without options: on the embedded handwritten digits.

Examples:
  python main.py
  python main.py --data_dir=gs://bucket/imagenet --tpu=my-tpu --train_batch_size=4096 --train_steps=109474
  python main.py --data_dir=/data/imagenet --model_name=efficientnet-b3 --train_batch_size=512 --model_dir=runs/b3
  python main.py --mode=eval --model_dir=runs/b3
  python main.py --mode=preview --augment_name=autoaugment --cutmix_alpha=1 --model_dir=runs/b0
  python main.py --mode=predict --model_dir=runs/b3 --images=photos,more/*.jpg
"""

import dataclasses
import re
import sys
import textwrap
import types
import typing

from absl import app, flags, logging

from keras_efficientnet import console, preflight
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.config import GROUPS, TOP, TrainConfig
from keras_efficientnet.cpu import tune_cpu
from keras_efficientnet.files import Terminated, stop_on_signals
from keras_efficientnet.profiling import profile
from keras_efficientnet.recipes import MEANINGS, make_config
from keras_efficientnet.runs import Preempted, RunFolder

if typing.TYPE_CHECKING:
    from keras_efficientnet.evaluation.predictions import Prediction

FLAGS = flags.FLAGS
NAMES = tuple(field.name for field in dataclasses.fields(TrainConfig))
TRAINING_MODES = ("train", "train_and_eval")
PREEMPTED = 75  # exit status "try again" (EX_TEMPFAIL of sysexits.h), after SIGTERM, Ctrl-C or the loss of a host
TERMINATED = 128 + 15  # as of any process that ends by SIGTERM: modes without training
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}
NO_BIGTABLE = "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://"

# Flags of the official main.py (tensorflow/tpu, models/official/efficientnet) that were removed -> why
REMOVED_FLAGS = {
    "use_tpu": "a TPU is used where --tpu names one",
    "tpu_job_name": "TensorFlow finds the TPU's workers by itself",
    "archive_ckpt": "the best checkpoint is always kept, in archive/",
    "batch_norm_batch_size": "--batch_norm_sync chooses the replicas that share batch statistics",
    "skip_host_call": "the log costs one number for each --iterations_per_loop steps",
    "log_step_count_steps": "a line is logged for each --iterations_per_loop steps",
    "num_parallel_calls": "tf.data finds the best number",
    "bigtable_project": NO_BIGTABLE,
    "bigtable_instance": NO_BIGTABLE,
    "bigtable_table": NO_BIGTABLE,
    "bigtable_train_prefix": NO_BIGTABLE,
    "bigtable_eval_prefix": NO_BIGTABLE,
    "bigtable_column_family": NO_BIGTABLE,
    "bigtable_column_qualifier": NO_BIGTABLE,
    "data_format": "always channels_last; the compiler chooses the layout of a device",
    "transpose_input": "the compiler chooses the layout of a device",
    "use_bfloat16": "--precision=bfloat16, which is the default on a TPU",
    "export_dir": "exports go to --model_dir; --noexport leaves them out",
    "export_to_tpu": "a SavedModel runs on a TPU as it is",
    "use_async_checkpointing": "was in tf.contrib, of TensorFlow 1",
}


class Column(typing.NamedTuple):
    """A column of the table of results."""

    title: str
    key: str
    scale: float
    form: str

    def to_cell(self, row: dict[str, float]) -> str:
        """Returns the text of the cell in a row."""
        value = row.get(self.key)
        return "-" if value is None else self.form.format(self.scale * value)


COLUMNS = (
    Column("top-1", "top_1_accuracy", 100, "{:.2f}%"),
    Column("top-5", "top_5_accuracy", 100, "{:.2f}%"),
    Column("ECE", "expected_calibration_error", 100, "{:.2f}%"),
    Column("agrees", "agreement", 100, "{:.2f}%"),
    Column("MB", "bytes", 1e-6, "{:.1f}"),
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags, shows the help, and explains flags that do not exist here."""
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and name in ("h", "help", "helpshort"):
            print(to_help())
            sys.exit(0)
        for removed in {name, name.removeprefix("no")} & set(REMOVED_FLAGS):
            sys.exit(f"main.py: there is no --{removed} here: {REMOVED_FLAGS[removed]}.")
    try:
        rest = FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        sys.exit(f"main.py: {preflight.explain_unknown_flag(error.flagname, NAMES)}")
    except flags.Error as error:
        sys.exit(f"main.py: {' '.join(str(error).split()).rstrip('.')}. --help lists the flags.")
    if FLAGS.model_name == "help":
        print(to_list_of_networks())
        sys.exit(0)
    return rest


def to_help() -> str:
    """Returns the description of this program, its options by group, the recipes and the networks."""
    lines = [
        f"{__doc__}",
        "Each option is --name=value; those with [no] are --name or --noname. The defaults are the official recipe.",
    ]
    for field in dataclasses.fields(TrainConfig):
        if field.name in GROUPS:
            lines += ["", f"{GROUPS[field.name]}:"]
        negation = "[no]" if isinstance(field.default, bool) else ""
        default = "" if field.default is None or negation else f"={field.default}"
        choices = f" One of {', '.join(field.metadata['choices'])}." if field.metadata["choices"] else ""
        given = " On by default." if field.default is True else ""
        lines += [f"  --{negation}{field.name}{default}", *_wrap(field.metadata["help"] + choices + given)]
    lines += ["", "Recipes, for --recipe:", *(f"  {name:10}{meaning}" for name, meaning in MEANINGS.items())]
    lines += ["", "Networks, for --model_name:", *_wrap(", ".join(VARIANTS))]
    return "\n".join([*lines, "", "--verbosity=1 shows the log lines of all libraries. --helpfull lists every flag."])


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=6 * " ", subsequent_indent=6 * " ", break_on_hyphens=False)


def to_list_of_networks() -> str:
    """Returns a table of all networks: parameters, multiply-adds, resolution, and published top-1 accuracy."""
    lines = [f"{'network':28} {'parameters':>12} {'multiply-adds':>14} {'pixels':>7} {'top-1':>7}"]
    for name, variant in VARIANTS.items():
        row = profile(name)
        counts = f"{row.parameters:12,} {row.macs / 1e9:12,.2f} G {row.resolution:7}"
        lines.append(f"{name:28} {counts} {variant.top_1:6.1f}%")
    return "\n".join(lines)


def define_flags() -> None:
    """Defines a flag for each option of TrainConfig."""
    hints = typing.get_type_hints(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
        choices = field.metadata["choices"]
        if choices:
            flags.DEFINE_enum(field.name, field.default, choices, field.metadata["help"])
        else:
            DEFINE[kind](field.name, field.default, field.metadata["help"])


def start(arguments: list[str]) -> None:
    """Calls `main` in a process of its own: with the CPU tuned, and a terminal that shows only our own lines.

    --verbosity shows the lines of all libraries.
    """
    tune_cpu()
    if not FLAGS["verbosity"].present:
        console.hide_other_lines(logging.get_absl_handler())
    main(arguments)


def main(arguments: list[str]) -> None:
    """Runs the mode that the flags ask for. A user error is reported in one line; any other has a traceback."""
    if arguments[1:]:
        sys.exit(f"main.py: {arguments[1]!r} is not a flag. Each option is --name=value; --help lists them.")
    given = {name: FLAGS[name].value for name in NAMES if FLAGS[name].present}
    try:
        with console.own_lines(verbose=FLAGS["verbosity"].present):
            status = run(make_config(**given))
    except Terminated:  # before the first step, or after the last: training answers the signal by `Preempted`
        print("main.py: stopped by SIGTERM. The same command starts again or resumes.", file=sys.stderr)
        sys.exit(PREEMPTED if FLAGS.mode in TRAINING_MODES else TERMINATED)
    except KeyboardInterrupt:
        sys.exit("main.py: stopped. The same command resumes from the latest checkpoint, if there is one.")
    except Preempted as error:
        print(f"main.py: {error} The same command resumes from the latest checkpoint.", file=sys.stderr)
        sys.exit(PREEMPTED)
    except Exception as error:
        if not is_user_error(error):
            raise
        logging.debug("", exc_info=True)
        sys.exit(f"main.py: {to_line(error)} (--verbosity=1 shows where)")
    sys.exit(status)


def run(config: TrainConfig) -> int:
    """Runs a mode and prints its results; returns the exit status."""
    preflight.check_run(config)
    from keras_efficientnet import training  # imports TensorFlow, which takes seconds: only if the options are valid

    if config.mode == "preview":
        print(f"Wrote the images as the network will see them: {training.preview(config)}")
        return 0
    if config.mode == "predict":
        return print_predictions(training.predict(config))
    print(to_table(training.run(config), trained=config.mode != "eval"))
    print(to_listing(RunFolder(config.directory)))
    return 0


def print_predictions(predictions: "list[Prediction]") -> int:
    """Prints a table for each image, and to stderr the files that could not be read; returns the exit status."""
    for prediction in predictions:
        if prediction.fault is None:
            print(prediction.file)
            for rank, (name, probability) in enumerate(prediction.top, start=1):
                print(f"{rank:4} {100 * probability:7.2f}%  {name}")
    faults = [f"main.py: {prediction.file} {prediction.fault}" for prediction in predictions if prediction.fault]
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


def is_user_error(error: Exception) -> bool:
    """Returns whether the message is enough: an option or a file is wrong, not the program."""
    is_tensorflow = type(error).__module__.startswith("tensorflow")
    return is_tensorflow or isinstance(error, (ValueError, OSError, RuntimeError, ImportError))


def to_line(error: Exception) -> str:
    """Returns the message in one line, without the positions in the graph that TensorFlow adds."""
    message = getattr(error, "message", None) or str(error)
    assertion = re.search(r"assertion failed: \[(.*)\]", message)  # the text around it describes the graph
    message = assertion.group(1) if assertion else message
    message = re.sub(r"\{\{[^}]*\}\}", "", message).split("[[")[0]
    return " ".join(message.split())


def to_table(results: dict[str, typing.Any], *, trained: bool = True) -> str:
    """Returns the results of a run as a table, with a line on its steps and one on broken records, if any.

    Args:
        results: of `training.run`.
        trained: whether the run has trained, and not only evaluated.
    """
    rows = {name: results[name] for name in ("model", "saved_model", "tflite") if results.get(name)}
    columns = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows.values())]
    if results.get("classes", TOP + 1) <= TOP:  # the likeliest five are all classes
        columns = [column for column in columns if column.key != "top_5_accuracy"]
    lines = [f"{'':12}" + "".join(f"{column.title:>9}" for column in columns)] if rows else []
    lines += [f"{name:12}" + "".join(f"{column.to_cell(row):>9}" for column in columns) for name, row in rows.items()]
    broken = results.get("broken_records")
    if broken:
        more = f" and {len(broken) - 1} more" if broken[1:] else ""
        lines.append(f"Skipped, as they are broken: {broken[0]}{more}")
    if not trained:
        return "\n".join(
            [*lines, f"{results['model']['images']} images, with the checkpoint of step {results['steps']}"]
        )
    best = results.get("best")
    summary = f"; best top-1 {100 * best['top_1_accuracy']:.2f}% at step {best['step']}" if best else ""
    lines.append(f"{results['steps']} steps, {results['seconds']:.0f} s of training{summary}")
    return "\n".join(lines)


def to_listing(folder: RunFolder) -> str:
    """Returns the files of a run with their meanings, one per line."""
    lines = [f"  {name:20} {meaning}" for name, meaning in folder.contents()]
    return "\n".join([f"Files in {folder.path}/", *lines])


define_flags()

if __name__ == "__main__":
    stop_on_signals()
    app.run(start, flags_parser=parse_flags)
