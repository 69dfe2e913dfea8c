"""Prints the table of models of README.md: `python tests/make_readme.py`."""

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.profiling import profile


def table() -> str:
    """The rows in Markdown: parameters, multiply-adds and resolution, by arithmetic."""
    lines = ["| model | parameters | multiply-adds | resolution |", "|---|--:|--:|--:|"]
    for name in VARIANTS:
        row = profile(name)
        lines.append(f"| {name} | {row.parameters:,} | {row.macs / 1e9:,.2f} G | {row.resolution} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
