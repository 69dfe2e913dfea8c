"""Writes the generated tables of README.md and docs/: `python tests/make_docs.py`.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; `TABLES` has the names.
"""

import dataclasses
import re
import sys
import textwrap
from pathlib import Path

import keras_efficientnet
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.config import TrainConfig
from keras_efficientnet.profiling import profile
from keras_efficientnet.recipes import RECIPES
from keras_efficientnet.weights.pretrained import HALF, list_pretrained

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
B0_TO_B7 = [f"efficientnet-b{number}" for number in range(8)]
MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(head: tuple[str, ...], rows, align: str = "") -> str:
    """Returns a Markdown table; `align` has one letter per column, r for numbers."""
    rules = ["--:" if letter == "r" else "---" for letter in align.ljust(len(head), "l")]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, rules, *rows))


def models(names=tuple(VARIANTS)) -> str:
    """Counts by arithmetic, megabytes (2**20 bytes) of float32 weights, published accuracies."""
    rows = []
    for name in names:
        variant, row = VARIANTS[name], profile(name)
        megabytes = f"{4 * (row.parameters + row.statistics) / 2**20:,.2f}"
        if variant.megabytes:
            megabytes += f" ({variant.megabytes:.2f})"
        counts = (f"{row.parameters:,}", f"{row.macs / 1e9:,.2f} G", row.resolution, megabytes)
        rows.append((name, *counts, f"{variant.top_1:.3f}", f"{variant.top_5:.3f}"))
    head = ("model", "parameters", "multiply-adds", "resolution", "weights, MB", "top-1", "top-5")
    return markdown(head, rows, "lrrrrrr")


def b0_to_b7() -> str:
    """The rows of `models` that README.md shows."""
    return models(B0_TO_B7)


def pretrained() -> str:
    """What `weights` may be for each network, and the accuracy; a dagger marks pixels from -1 to 1."""
    rows = []
    for name in VARIANTS:
        cells = []
        for row in list_pretrained(name):
            mark = "†" if row.statistics == HALF else ""
            names = ", ".join(f"`{name}`" for name in (*row.names, row.tag))
            cells.append(f"{names}{mark}: {row.top_1:.3f} at {row.resolution}")
        rows.append((name, "; ".join(cells)))
    return markdown(("model", "weights: top-1 at resolution"), rows)


def flags() -> str:
    """Every flag of main.py."""
    rows = []
    for field in dataclasses.fields(TrainConfig):
        choices = field.metadata["choices"]
        values = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        default = "" if field.default is None else f"`{field.default}`"
        rows.append((f"`--{field.name}`", default, (field.metadata["help"] + values).replace("|", "\\|")))
    return markdown(("flag", "default", "meaning"), rows)


def removed_flags() -> str:
    """The flags of the official main.py that do not exist here; those with one reason share a row."""
    sys.path.insert(0, str(ROOT))  # main.py is not installed
    import main

    names: dict[str, list[str]] = {}
    for name, reason in main.REMOVED_FLAGS.items():
        names.setdefault(reason, []).append(f"`--{name}`")
    return markdown(("official flag", "instead"), [(", ".join(same), reason) for reason, same in names.items()])


def recipes() -> str:
    """Every option that a recipe changes, and its value in each recipe."""
    changed = [f for f in dataclasses.fields(TrainConfig) if any(f.name in options for options in RECIPES.values())]
    defaults = {field.name: field.default for field in changed}
    rows = []
    for name, default in defaults.items():
        values = [default if recipe == "official" else options.get(name) for recipe, options in RECIPES.items()]
        rows.append((f"`--{name}`", *("" if value is None else f"`{value}`" for value in values)))
    return markdown(("flag", *(f"`{recipe}`" for recipe in RECIPES)), rows)


def builders() -> str:
    """The names of all builders."""
    return textwrap.fill(", ".join(f"`{name}`" for name in keras_efficientnet.__all__ if name[:1] == "E") + ".", 120)


TABLES = {
    "builders": builders,
    "b0-to-b7": b0_to_b7,
    "flags": flags,
    "models": models,
    "pretrained": pretrained,
    "recipes": recipes,
    "removed-flags": removed_flags,
}


def fill(text: str) -> str:
    """Returns the text of a page with its generated tables made anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text("utf-8")), "utf-8")
