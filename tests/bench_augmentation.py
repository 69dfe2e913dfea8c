"""Measures the input pipeline with and without a policy: python tests/bench_augmentation.py [ROUNDS].

The images are synthetic, of ImageNet's usual size: 500 x 375 pixels, about 93 kB. Each round measures all augmentations
in turn, so that other work on the machine affects all of them equally. Ratios are medians over the rounds.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.recipes import make_config

NAMES = (None, "autoaugment", "randaugment")
IMAGES = 64
PREFETCHED = 2  # batches


def encoded_image(number: int) -> bytes:
    """Returns a JPEG of noise; long wavelengths are stronger, as in photographs."""
    random = np.random.RandomState(number)
    pixels = np.full((375, 500, 3), 128.0)
    for side, strength in ((3, 50), (8, 30), (25, 22), (75, 15), (250, 9)):
        grid = random.normal(0, strength, (1, side, side * 4 // 3, 3)).astype("float32")
        pixels += tf.image.resize(grid, (375, 500), "bicubic")[0].numpy()
    return tf.io.encode_jpeg(np.clip(pixels, 0, 255).astype("uint8"), quality=95, chroma_downsampling=True).numpy()


def write_images(folder: Path) -> None:
    """Writes one file of TFRecords in the official layout."""
    with tf.io.TFRecordWriter(str(folder / "train-00000-of-00001")) as writer:
        for number in range(IMAGES):
            data = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded_image(number)]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
            features = tf.train.Features(feature={"image/encoded": data, "image/class/label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())


def batches(folder: Path, name: str | None) -> Iterator:
    """Returns endless batches of 32 images of the official training pipeline at 224 pixels, after a warm-up."""
    config = make_config(
        data_dir=str(folder), recipe="official", mode="train", augment_name=name, num_train_images=1_000_000
    )
    iterator = iter(make_datasets(config, VARIANTS["efficientnet-b0"]).train(0).batch(32).prefetch(PREFETCHED))
    _seconds(iterator, 12)
    return iterator


def ratios(folder: Path, rounds: int, count: int = 12) -> dict[str, float]:
    """Returns the images per second with each augmentation, divided by those without augmentation."""
    write_images(folder)
    iterators = {name: batches(folder, name) for name in NAMES}
    shares: dict[str, list[float]] = {name: [] for name in NAMES[1:]}
    for _ in range(rounds):
        seconds = {name: _seconds(iterator, count) for name, iterator in iterators.items()}
        for name in shares:
            shares[name].append(seconds[None] / seconds[name])
    return {name: statistics.median(values) for name, values in shares.items()}


def _seconds(iterator: Iterator, count: int) -> float:
    """Returns the time of `count` batches, after the prefetched ones were consumed."""
    for _ in range(PREFETCHED + 2):
        next(iterator)
    started = time.perf_counter()
    for _ in range(count):
        next(iterator)
    return time.perf_counter() - started


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name, share in ratios(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 7).items():
            print(f"{name}: {share:.2f} of the images per second without it")
