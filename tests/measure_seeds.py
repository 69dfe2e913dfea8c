"""Measures `python main.py` over seeds: `python tests/measure_seeds.py [SEEDS]`, 3 to 10 minutes for each seed.

Prints the top-1 accuracy of each seed on the 355 validation digits, their mean, spread and range, and what the nearest
neighbour among the training digits reaches. The runs are kept in `runs/seeds`, and a run that is there is not repeated.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from make_sample import split
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

ROOT = Path(__file__).parent.parent
FOLDER = Path("runs/seeds")


def nearest_neighbour() -> float:
    """Returns the accuracy of the nearest neighbour, by the Euclidean distance of the 8 x 8 pixels."""
    digits = load_digits()
    train, validation = split(digits.target).values()
    classifier = KNeighborsClassifier(n_neighbors=1).fit(digits.data[train], digits.target[train])
    return float(np.mean(classifier.predict(digits.data[validation]) == digits.target[validation]))


def train(seed: int) -> float:
    """Trains and evaluates with a seed; returns the top-1 accuracy."""
    folder = FOLDER / str(seed)
    command = [sys.executable, str(ROOT / "main.py"), f"--seed={seed}", f"--model_dir={folder}", "--noexport"]
    subprocess.run(command, check=True)
    return float(json.loads((folder / "results.json").read_text("utf-8"))["model"]["top_1_accuracy"])


def describe(accuracies: Sequence[float]) -> str:
    """Returns mean, standard deviation and range of accuracies from 0 to 1, in percent."""
    percent = [100 * accuracy for accuracy in accuracies]
    mean, spread = statistics.mean(percent), statistics.stdev(percent)
    return f"{mean:.2f} % on average, standard deviation {spread:.2f}, {min(percent):.2f} to {max(percent):.2f} %"


if __name__ == "__main__":
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    accuracies = [train(seed) for seed in seeds]
    for seed, accuracy in zip(seeds, accuracies, strict=True):
        print(f"seed {seed}: {100 * accuracy:.2f} %")
    print(f"{len(seeds)} seeds: {describe(accuracies)}")
    print(f"nearest neighbour: {100 * nearest_neighbour():.2f} %")
