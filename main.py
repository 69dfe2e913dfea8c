"""Trains, evaluates and exports EfficientNets. `python main.py` alone does it on the embedded handwritten digits.

Examples:
  python main.py
  python main.py --data_dir=gs://bucket/imagenet --tpu=my-tpu --train_batch_size=4096 --train_steps=109474
  python main.py --data_dir=/data/imagenet --model_name=efficientnet-b3 --train_batch_size=512 --model_dir=runs/b3
  python main.py --mode=eval --model_dir=runs/b3
  python main.py --mode=preview --augment_name=autoaugment --cutmix_alpha=1 --model_dir=runs/b0
  python main.py --mode=predict --model_dir=runs/b3 --images=photos,more/*.jpg
"""

import dataclasses
import os
import re
import sys
import types
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

from keras_efficientnet.config import TrainConfig
from keras_efficientnet.recipes import make_config

FLAGS = flags.FLAGS
PREEMPTED = 75  # exit code "try again" (EX_TEMPFAIL of sysexits.h), after SIGTERM, Ctrl-C or the loss of a host
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}


# Flags of the official main.py (tensorflow/tpu, models/official/efficientnet) that are no longer there, and why
LEFT_OUT = {
    "use_tpu": "a TPU is used where --tpu names one",
    "tpu_job_name": "TensorFlow finds the TPU's workers by itself",
    "archive_ckpt": "the best checkpoint is always kept, in archive/",
    "batch_norm_batch_size": "--batch_norm_sync says whose images a batch norm looks at",
    "skip_host_call": "the log costs one number for each --iterations_per_loop steps",
    "log_step_count_steps": "a line is logged for each --iterations_per_loop steps",
    "num_parallel_calls": "tf.data finds the best number",
    "bigtable_project": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_instance": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_table": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_train_prefix": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_eval_prefix": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_column_family": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "bigtable_column_qualifier": "TensorFlow no longer reads Cloud Bigtable: --data_dir takes gs://",
    "data_format": "always channels_last; the compiler chooses the layout of a device",
    "transpose_input": "the compiler chooses the layout of a device",
    "use_bfloat16": "--precision=bfloat16, which is the default on a TPU",
    "export_dir": "exports go to --model_dir; --noexport leaves them out",
    "export_to_tpu": "a SavedModel runs on a TPU as it is",
    "use_async_checkpointing": "was in tf.contrib, of TensorFlow 1",
}


def parse_flags(argv: list[str]) -> list[str]:
    """Parses as absl does, with a word on the official flags that are gone."""
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        for left_out in {name, name.removeprefix("no")} & set(LEFT_OUT):
            sys.exit(f"main.py: there is no --{left_out} here: {LEFT_OUT[left_out]}.")
    return app.parse_flags_with_usage(argv)


def define_flags() -> None:
    """One flag for each option of TrainConfig."""
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


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"main.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    given = {
        field.name: FLAGS[field.name].value for field in dataclasses.fields(TrainConfig) if FLAGS[field.name].present
    }
    try:
        config = make_config(**given)
        from keras_efficientnet import training  # brings TensorFlow: after the options are known to be right

        if config.mode == "preview":
            print(f"What the network will see is in {training.preview(config)}")
            return
        results = training.predict(config) if config.mode == "predict" else training.run(config)
    except KeyboardInterrupt:
        sys.exit("main.py: stopped. The same command goes on from the last checkpoint, or anew where there is none.")
    except Exception as error:  # noqa: BLE001
        if type(error).__name__ == "Preempted":
            print(f"main.py: {error} The same command goes on from there.", file=sys.stderr)
            sys.exit(PREEMPTED)
        if not is_users(error):
            raise
        logging.debug("", exc_info=True)
        sys.exit(f"main.py: {one_line(error)} (--verbosity=1 shows where)")
    if isinstance(results, list):
        sys.exit(show(results))
    print(table(results))
    print(f"All of it is in {config.directory}/")


def show(predictions: list) -> int:
    """Prints a table for each image, and what is wrong with the other files; returns the exit status."""
    for prediction in predictions:
        if prediction.fault is None:
            print(prediction.file)
            for rank, (name, probability) in enumerate(prediction.top, start=1):
                print(f"{rank:4} {100 * probability:7.2f}%  {name}")
    faults = [f"main.py: {prediction.file} {prediction.fault}" for prediction in predictions if prediction.fault]
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


def is_users(error: Exception) -> bool:
    """Whether the message says all: a wrong option or file, and not a fault of the program."""
    return isinstance(error, (ValueError, OSError, RuntimeError, ImportError)) or type(error).__module__.startswith(
        "tensorflow"
    )


def one_line(error: Exception) -> str:
    """The message without the places in the graph that TensorFlow adds."""
    message = getattr(error, "message", None) or str(error)
    assertion = re.search(r"assertion failed: \[(.*)\]", message)  # what follows and goes before is for programmers
    message = assertion.group(1) if assertion else message
    message = re.sub(r"\{\{[^}]*\}\}", "", message).split("[[")[0]
    return " ".join(message.split())


def table(results: dict[str, typing.Any]) -> str:
    """The results in columns."""
    lines = [f"{'':12} {'top-1':>8} {'top-5':>8} {'ECE':>8} {'agrees':>8} {'MB':>8}"] if "model" in results else []
    for name in ("model", "saved_model", "tflite"):
        row = results.get(name)
        if row:
            keys = ("top_1_accuracy", "top_5_accuracy", "expected_calibration_error", "agreement")
            percents = (row.get(key) for key in keys)
            cells = [f"{100 * value:7.2f}%" if value is not None else f"{'-':>8}" for value in percents]
            size = f"{row['bytes'] / 1e6:8.1f}" if "bytes" in row else f"{'-':>8}"
            lines.append(f"{name:12} {' '.join(cells)} {size}")
    if results.get("broken_records"):
        lines.append(
            f"{len(results['broken_records'])} broken records were left out: {results['broken_records'][0]}; ..."
        )
    lines.append(f"{results['steps']} steps, {results['seconds']:.0f} s of training")
    if results.get("best"):
        lines[-1] += f"; best top-1 {100 * results['best']['top_1_accuracy']:.2f}% at step {results['best']['step']}"
    return "\n".join(lines)


define_flags()

if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
