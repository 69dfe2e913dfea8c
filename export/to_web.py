"""Writes a trained network as a folder with a web page that classifies images in the browser, and sends them nowhere.

The runtime is downloaded from the npm registry once (20 MB), or read from --runtime. The page needs a web server, but
no internet access.

Example, after `python main.py`:
  python export/to_web.py --model=runs/efficientnet-b0 --output=runs/b0_web
"""

import command
from absl import flags

from keras_efficientnet import preflight

FLAGS = flags.FLAGS
command.define_source_flags("The folder to write.")
flags.adopt_module_key_flags(command)
flags.DEFINE(
    command.PATH, "runtime", None, "Folder with the packages from `npm pack`, for machines without internet access."
)
flags.DEFINE_string("title", None, "Title of the page.")


def check() -> None:
    command.check_export("web")
    if FLAGS.runtime:
        preflight.check_path(FLAGS.runtime, "folder")


def main() -> list[str]:
    from keras_efficientnet import export

    page = export.export_page(
        FLAGS.model,
        FLAGS.output,
        labels=FLAGS.labels,
        runtime=FLAGS.runtime,
        title=FLAGS.title,
        overwrite=FLAGS.overwrite,
    )
    size = f"{page.bytes / 1e6:.1f} MB"
    return [
        f"{FLAGS.output}: {size}; probabilities differ from the model's by up to {page.max_difference:.2g}",
        f"To open it: python -m http.server -d {FLAGS.output}, then http://localhost:8000",
    ]


if __name__ == "__main__":
    command.run(main, check)
