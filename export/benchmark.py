"""Times networks in every format on one image, on one core and on two, by the protocol of Tan & Le 2019, table 4.

Reports the mean of 20 calls with one image, and the median and quartiles. Each file runs in a process of its own; the
processes take turns.

Examples; the first compares with the plain conversion of the network in keras.applications, the second is the paper's:
  python export/benchmark.py --models=efficientnet-b0 --peers=EfficientNetB0 --baseline=EfficientNetB0
  python export/benchmark.py --models=efficientnet-b1 --peers=ResNet152 --formats=keras,keras-folded,tflite --threads=1
  python export/benchmark.py --files=b0.tflite,b0.onnx --output=latency
"""

import functools

import command
from absl import flags

from keras_efficientnet import preflight
from keras_efficientnet.paths import split_paths

FLAGS = flags.FLAGS
flags.DEFINE_list("models", [], "Networks of this package, efficientnet-b0,..., with random weights.")
flags.DEFINE_list("peers", [], "Networks of keras.applications, EfficientNetB0,ResNet152,..., converted plainly.")
flags.DEFINE_string("files", "", "Files: .tflite, .onnx, .xml, .keras, or folders of SavedModels or of OpenVINO.")
flags.DEFINE_list("formats", [], "Formats of the networks; by default all.")
flags.DEFINE_list(
    "tasks",
    [],
    "More to time, of --models and --peers: training,inference,build,load,import. Then only --formats are files.",
)
flags.DEFINE_list(
    "batch_sizes", [], "Images of a call of a task; by default 32 for training, and 1,8,32 for inference."
)
flags.DEFINE_list("threads", None, "Numbers of threads, 1,2 by default. Each process runs on as many cores.")
flags.DEFINE_string("baseline", None, "Network or file to compare with, or NAME:FORMAT; by default the first.")
flags.DEFINE_integer("rounds", 5, "Turns per file.", lower_bound=1)
flags.DEFINE_integer("calls", 4, "Timed calls per turn.", lower_bound=1)
flags.DEFINE_bool("processor_time", False, "Measure processor time instead of elapsed time, for busy machines.")
flags.DEFINE(command.PATH, "output", None, "Folder for latency.csv, latency.json and latency.png.")
flags.DEFINE_bool("plot", False, "Plot latency against the accuracy of the published weights; needs --output.")
for name in ("threads", "batch_sizes"):
    flags.register_validator(name, lambda numbers: all(map(str.isdigit, numbers or [])), "must be whole numbers: 1,2")


def check() -> None:
    preflight.check_plot(FLAGS.plot, FLAGS.output)
    preflight.check_models(FLAGS.models)
    for path in split_paths(FLAGS.files):
        preflight.check_path(path, "file")
    preflight.check_packages(FLAGS.formats)


def main() -> list[str]:
    import tqdm

    from keras_efficientnet.benchmark.comparison import Comparison, compare_latencies
    from keras_efficientnet.runtimes.worker import default_threads

    comparison = Comparison(
        models=FLAGS.models,
        peers=FLAGS.peers,
        files=split_paths(FLAGS.files),
        formats=FLAGS.formats,
        tasks=FLAGS.tasks,
        batch_sizes=[int(number) for number in FLAGS.batch_sizes],
        threads=[int(number) for number in FLAGS.threads] if FLAGS.threads else default_threads(),
        baseline=FLAGS.baseline,
        rounds=FLAGS.rounds,
        calls=FLAGS.calls,
        processor_time=FLAGS.processor_time,
    )
    return compare_latencies(
        comparison,
        output=FLAGS.output,
        plot=FLAGS.plot,
        writing=functools.partial(tqdm.tqdm, desc="writing", unit="file"),
        timing_files=functools.partial(tqdm.tqdm, desc="timing", unit="turn"),
    )


if __name__ == "__main__":
    command.run(main, check, stopped="No results were written.", tuned=False)
