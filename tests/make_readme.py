"""Prints the tables of README.md, of models and of published weights: `python tests/make_readme.py`."""

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.profiling import profile
from keras_efficientnet.weights.pretrained import HALF, list_pretrained

HEAD = """| model | parameters | multiply-adds | resolution | weights, MB | top-1 | top-5 |
|---|--:|--:|--:|--:|--:|--:|
"""
PRETRAINED_HEAD = """| model | weights: top-1 at resolution |
|---|---|
"""


def table() -> str:
    """The rows in Markdown: counts by arithmetic, megabytes (of 2**20) of float32 weights, published accuracies."""
    lines = []
    for name, variant in VARIANTS.items():
        row = profile(name)
        megabytes = f"{4 * (row.parameters + row.statistics) / 2**20:,.2f}"
        if variant.megabytes:
            megabytes += f" ({variant.megabytes:.2f})"
        cells = (name, f"{row.parameters:,}", f"{row.macs / 1e9:,.2f} G", row.resolution, megabytes)
        lines.append(f"| {' | '.join(map(str, cells))} | {variant.top_1:.3f} | {variant.top_5:.3f} |")
    return HEAD + "\n".join(lines)


def pretrained_table() -> str:
    """A row for each network: what `weights` may be, and the accuracy; a dagger where pixels go from -1 to 1."""
    lines = []
    for name in VARIANTS:
        cells = []
        for row in list_pretrained(name):
            mark = "†" if row.statistics == HALF else ""
            names = ", ".join(f"`{name}`" for name in (*row.names, row.tag))
            cells.append(f"{names}{mark}: {row.top_1:.3f} at {row.resolution}")
        lines.append(f"| {name} | {'; '.join(cells)} |")
    return PRETRAINED_HEAD + "\n".join(lines)


if __name__ == "__main__":
    print(table(), pretrained_table(), sep="\n\n")
