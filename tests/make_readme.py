"""Prints the table of models of README.md: `python tests/make_readme.py`."""

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.profiling import profile

HEAD = """| model | parameters | multiply-adds | resolution | weights, MB | top-1 | top-5 |
|---|--:|--:|--:|--:|--:|--:|
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


if __name__ == "__main__":
    print(table())
