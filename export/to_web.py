"""Writes a trained network as a folder with a web page that classifies pictures in the browser, and sends nothing.

The runtime comes from the npm registry, once (20 MB), or from --runtime. The page needs a web server, any one, and no
network.

Example, after `python main.py`:
  python export/to_web.py --model=runs/efficientnet-b0 --output=runs/b0_web
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The .keras file, or the folder of a run, which has a model.keras.", required=True)
flags.DEFINE_string("output", None, "The folder to write.", required=True)
flags.DEFINE_string("labels", None, "Text file with the names of the classes, one per line; by default the run's.")
flags.DEFINE_string("runtime", None, "Folder with what `npm pack` gave, where there is no network.")
flags.DEFINE_string("title", None, "Title of the page.")
flags.DEFINE_bool("overwrite", False, "Replace a page that is there.")


def main(arguments: list[str]) -> None:
    if arguments[1:]:
        sys.exit(f"to_web.py: {arguments[1]!r} is no flag. Each option is --name=value; --help lists them.")
    try:
        import keras  # noqa: F401  first: keras_efficientnet then registers its layers

        from keras_efficientnet import export

        model = export.load_model(FLAGS.model)
        labels = export.read_labels(FLAGS.labels) if FLAGS.labels else export.find_labels(FLAGS.model)
        options = {name: FLAGS[name].value for name in ("runtime", "title", "overwrite")}
        options |= export.find_resampling(model, FLAGS.model)
        difference = export.to_web(model, FLAGS.output, labels=labels, **options)
    except KeyboardInterrupt:
        sys.exit("to_web.py: stopped. Nothing was written.")
    except (OSError, RuntimeError, ValueError) as error:
        logging.debug("", exc_info=True)
        sys.exit(f"to_web.py: {error}")
    size = export.count_bytes(FLAGS.output)
    print(f"{FLAGS.output}: {size / 1e6:.1f} MB; probabilities differ from the model's by up to {difference:.2g}")
    print(f"To look at it: python -m http.server -d {FLAGS.output}, then http://localhost:8000")


if __name__ == "__main__":
    app.run(main)
