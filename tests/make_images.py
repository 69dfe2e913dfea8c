"""Draws the image at the top of README.md: what a trained network predicts for validation digits.

python main.py --model_dir=runs/efficientnet-b0
python tests/make_images.py runs/efficientnet-b0
"""

import io
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from keras_efficientnet import export

TARGET = Path(__file__).parent.parent / "docs/images/predictions.png"
ROWS, COLUMNS = 2, 10


def draw(run: str) -> None:
    """Draws the first validation digits of each class with the predicted class and its probability."""
    model = export.load_model(run)
    images = export.load_images(model, run, count=355)
    probabilities = model.predict(images.pixels, verbose=0)
    chosen = [np.flatnonzero(images.labels == column)[row] for row in range(ROWS) for column in range(COLUMNS)]
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(COLUMNS, 1.35 * ROWS), layout="constrained")
    for axis, index in zip(axes.flat, chosen, strict=True):
        predicted = probabilities[index].argmax()
        axis.imshow(images.pixels[index].clip(0, 255).astype("uint8"), interpolation="nearest")
        color = "black" if predicted == images.labels[index] else "red"
        axis.set_title(f"{predicted}: {probabilities[index].max():.0%}", fontsize=10, color=color)
        axis.axis("off")
    TARGET.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, dpi=80)
    Image.open(content).convert("RGB").quantize(32).save(TARGET, optimize=True)


if __name__ == "__main__":
    draw(sys.argv[1])
