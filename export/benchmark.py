"""Times networks in every format on one image, on one core and on two: the protocol of Tan & Le 2019, table 4.

Batch 1, the mean of 20 calls, and the median and quartiles; each file in a process of its own, in turns.

Examples; the first compares with the plain conversion of the network in keras.applications, the second is the paper's:
  python export/benchmark.py --models=efficientnet-b0 --peers=EfficientNetB0 --baseline=EfficientNetB0
  python export/benchmark.py --models=efficientnet-b1 --peers=ResNet152 --formats=keras,keras-folded,tflite --threads=1
  python export/benchmark.py --files=b0.tflite,b0.onnx --output=latency
"""

import functools
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported, here and in what is started

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_list("models", [], "Networks of this package, efficientnet-b0,..., with random weights.")
flags.DEFINE_list("peers", [], "Networks of keras.applications, EfficientNetB0,ResNet152,..., converted plainly.")
flags.DEFINE_list("files", [], "Files: .tflite, .onnx, .xml, .keras, or folders of SavedModels or of OpenVINO.")
flags.DEFINE_list("formats", [], "Of the networks; all by default.")
flags.DEFINE_list("threads", ["1", "2"], "Numbers of threads. A process has as many cores.")
flags.DEFINE_string(
    "baseline", None, "Compare with this network or file, the first by default; in one format: NAME:FORMAT."
)
flags.DEFINE_integer("rounds", 5, "How often each has its turn.", lower_bound=1)
flags.DEFINE_integer("calls", 4, "How many calls are timed in a turn.", lower_bound=1)
flags.DEFINE_bool("processor_time", False, "Count how long the cores were at work, for a machine that is busy.")
flags.DEFINE_string("output", None, "Folder for latency.csv, latency.json and latency.png.")
flags.DEFINE_bool("plot", False, "Draw latency against the accuracy of the published weights; needs --output.")


def find(folder: Path) -> list:
    """What is to be timed: the networks, in files in the folder, and the files that are there."""
    import tqdm

    from keras_efficientnet import create_model, list_models
    from keras_efficientnet.benchmark import candidates
    from keras_efficientnet.runtimes import timing

    if not all(number.isdigit() for number in FLAGS.threads):
        raise ValueError(f"--threads must be whole numbers, with commas between. Received: {','.join(FLAGS.threads)}")
    threads = [int(number) for number in FLAGS.threads]
    timing.check_threads(threads)
    ours = {name: functools.partial(create_model, name) for name in FLAGS.models}
    if unknown := [name for name in ours if not list_models(name)]:
        raise ValueError(f"Unknown models: {', '.join(unknown)}. Choose from: {', '.join(list_models())}")
    if FLAGS.baseline and FLAGS.baseline.split(":")[0] not in (*FLAGS.models, *FLAGS.peers, *FLAGS.files):
        raise ValueError(f"--baseline={FLAGS.baseline} is none of --models, --peers and --files.")
    peers = {name: candidates.find_peer(name) for name in FLAGS.peers}
    found = candidates.find_candidates(FLAGS.files, threads)
    for builders, plainly in ((ours, False), (peers, True)):
        progress = functools.partial(tqdm.tqdm, desc="writing", unit="file", disable=not builders)
        formats = FLAGS.formats or [*candidates.FORMATS]
        found += candidates.write_candidates(
            builders, folder, formats=formats, threads=threads, plainly=plainly, progress=progress
        )
    return found


def report(timings: list, machine: dict) -> None:
    """Prints the table, and writes what was asked for."""
    from keras_efficientnet.benchmark import latencies
    from keras_efficientnet.files import save_figure
    from keras_efficientnet.runtimes import timing

    first = timings[0]  # files are compared with the first, whatever its format
    baseline = FLAGS.baseline or (f"{first.model}:{first.format}" if first.model in FLAGS.files else first.model)
    rows = latencies.rows(timings, timing.ratios(timings, *baseline.split(":")), baseline)
    beside = latencies.side_by_side(rows)
    print("\n".join([*latencies.format_table(rows), *(["", *beside, ""] if beside else [])]))
    print(", ".join(f"{name}: {value}" for name, value in machine.items() if name != "packages"))
    if FLAGS.output:
        latencies.write_results(Path(FLAGS.output), rows, timings, machine)
    if FLAGS.plot:
        save_figure(latencies.draw(rows), Path(FLAGS.output) / "latency.png")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"benchmark.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    import keras  # noqa: F401  first: keras_efficientnet then registers its layers
    import tqdm

    from keras_efficientnet.benchmark import latencies
    from keras_efficientnet.runtimes import timing

    progress = functools.partial(tqdm.tqdm, desc="timing", unit="turn")
    try:
        if FLAGS.plot and not FLAGS.output:
            raise ValueError("--plot needs a folder to write to: --output=latency")
        with tempfile.TemporaryDirectory() as folder:
            found = find(Path(folder))
            machine = latencies.describe_machine()
            options = {"rounds": FLAGS.rounds, "calls": FLAGS.calls, "processor_time": FLAGS.processor_time}
            timings = timing.measure(found, progress=progress, **options)
        report(timings, machine)
    except KeyboardInterrupt:
        sys.exit("benchmark.py: stopped.")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"benchmark.py: {' '.join(str(error).split())}")


if __name__ == "__main__":
    app.run(main)
