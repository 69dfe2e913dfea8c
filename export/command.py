"""How the scripts in this folder start, fail and exit."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from keras_efficientnet import console, preflight
from keras_efficientnet.cpu import tune_cpu
from keras_efficientnet.files import stop_on_signals

USER_ERRORS = (ImportError, OSError, RuntimeError, ValueError)


class PathParser(flags.ArgumentParser[str]):
    """Expands `~` at the start of a path, as the shell does not after `--flag=`."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


PATH = PathParser()


def define_source_flags(output: str) -> None:
    """Defines the flags for a trained network and its exported file.

    Args:
        output: help of --output.
    """
    flags.DEFINE(PATH, "model", None, "The .keras file, or a run folder that has a model.keras.", required=True)
    flags.DEFINE(PATH, "output", None, output, required=True)
    flags.DEFINE(PATH, "labels", None, "Text file with one class name per line; by default that of the run.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing export.")


def define_measurement_flags(least_agreement: str = "0.99 by default") -> None:
    """Defines the flags for measuring an exported file.

    Args:
        least_agreement: the default of --least_agreement, in words.
    """
    images = "Images to measure on: image files, a folder of images, class folders or records, or sample."
    flags.DEFINE(PATH, "images", None, images)
    flags.DEFINE_integer("image_count", 500, "Number of images to measure on, at most.", lower_bound=1)
    agreement = f"Required share of the images with the same predicted class, or cosine similarity; {least_agreement}."
    flags.DEFINE_float("least_agreement", None, agreement, lower_bound=0.0, upper_bound=1.0)


def check_export(kind: str) -> None:
    """Checks the flags of `define_source_flags` and `define_measurement_flags` before TensorFlow is imported.

    Args:
        kind: the format or the number format.
    """
    given = flags.FLAGS.flag_values_dict()
    preflight.check_export(
        kind,
        given["model"],
        given["output"],
        overwrite=given["overwrite"],
        labels=given["labels"],
        images=given.get("images"),
    )


def export_model(kind: str, **options: Any) -> list[str]:
    """Exports what the flags of `define_source_flags` and `define_measurement_flags` ask for; returns the report.

    Args:
        kind: the format, a key of `export.FORMATS`.
        **options: fields of `export.Options`.
    """
    from keras_efficientnet import export

    report = export.export_file(
        flags.FLAGS.model,
        flags.FLAGS.output,
        kind,
        options=export.Options(**options),
        labels=flags.FLAGS.labels,
        images=flags.FLAGS.images,
        image_count=flags.FLAGS.image_count,
        least_agreement=flags.FLAGS.least_agreement,
        overwrite=flags.FLAGS.overwrite,
    )
    return [export.format_report(report)]


def run(
    main: Callable[[], Sequence[str]],
    check: Callable[[], None],
    *,
    stopped: str = "Nothing was written.",
    tuned: bool = True,
) -> None:
    """Parses the flags, calls `main`, and prints the lines that it returns. A user's mistake is one line on stderr.

    Args:
        main: calls the library.
        check: raises what the flags alone decide. It is called first, because importing TensorFlow takes seconds.
        stopped: what Ctrl+C, SIGTERM or SIGHUP leaves behind, in words.
        tuned: whether to call `tune_cpu`.
    """
    script = Path(sys.argv[0]).name

    def parse(arguments):
        try:
            return flags.FLAGS(arguments)
        except flags.UnrecognizedFlagError as error:
            known = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
            sys.exit(f"{script}: {preflight.explain_unknown_flag(error.flagname, known)}")
        except flags.Error as error:
            sys.exit(f"{script}: {' '.join(str(error).split()).rstrip('.')}. --help lists the flags.")

    def start(arguments):
        if arguments[1:]:
            sys.exit(f"{script}: {arguments[1]!r} is not a flag. Each option is --name=value; --help lists them.")
        try:
            check()
            stop_on_signals()
            if tuned:
                tune_cpu()
            verbose = flags.FLAGS["verbosity"].present
            if not verbose:
                console.hide_other_lines(logging.get_absl_handler())
            with console.own_lines(verbose=verbose):
                lines = main()
        except KeyboardInterrupt:
            sys.exit(f"{script}: stopped. {stopped}")
        except USER_ERRORS as error:
            logging.debug("", exc_info=True)
            sys.exit(f"{script}: {' '.join(str(error).split())} (--verbosity=1 shows where)")
        print("\n".join(lines))

    app.run(start, flags_parser=parse)
