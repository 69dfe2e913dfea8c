"""Reads the datasets of TensorFlow Datasets by their names. Labels start at 0; images stay encoded."""

from typing import TYPE_CHECKING

import tensorflow as tf

from keras_efficientnet.datasets.sources import Seed, Source, shuffle
from keras_efficientnet.datasets.transfer import TRANSFER

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

SHUFFLE_BUFFER = 16_384  # examples; the files already hold them in a random order
HELD_OUT_FROM = "90%"  # the rest of "train" is held out if there is no "validation" and no "test" split


def make_builder(name: str, data_dir: str | None) -> "DatasetBuilder":
    """Returns the builder of a dataset, which it downloads and prepares if necessary.

    Raises:
        ImportError: tensorflow-datasets is not installed.
        ValueError: there is no dataset of that name.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"`dataset={name}` needs tensorflow-datasets, which is not installed: "
            'pip install "keras_efficientnet[tfds]". Datasets that do not need it: sample, records, folder.'
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"`dataset` must be sample, records, folder or a name in tensorflow-datasets, with its folder in "
            f"`data_dir`. Received: dataset={name!r}"
        ) from error
    builder.download_and_prepare()
    return builder


def find_splits(builder: "DatasetBuilder") -> dict[str, str]:
    """Returns the disjoint splits to train and to evaluate on: the paper's splits for the paper's datasets."""
    paper = TRANSFER.get(builder.name)
    if paper and paper.splits:
        return dict(zip(("train", "validation"), paper.splits, strict=True))
    existing = builder.info.splits
    held_out = next((split for split in ("validation", "test") if split in existing), None)
    if held_out:
        return {"train": "train", "validation": held_out}
    return {"train": f"train[:{HELD_OUT_FROM}]", "validation": f"train[{HELD_OUT_FROM}:]"}


def find_features(builder: "DatasetBuilder") -> tuple[str, str]:
    """Returns the keys of the image and of the label. Raises ValueError if the dataset lacks one of them."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = (
        next((key for key, feature in features.items() if isinstance(feature, kind)), None)
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if image is None or label is None:
        raise ValueError(
            f"{builder.info.full_name} must have images with one label each. It has the features {list(features)}."
        )
    return image, label


def class_names(builder: "DatasetBuilder") -> tuple[str, ...]:
    """Returns the class names in the order of their labels."""
    return tuple(builder.info.features[find_features(builder)[1]].names)


def open_split(builder: "DatasetBuilder", split: str) -> Source:
    """Returns a split as a source. A shuffle buffer is enough: the files hold the examples in a random order."""
    import tensorflow_datasets as tfds

    image, label = find_features(builder)
    images = builder.info.splits[split].num_examples
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False, assert_cardinality=False),
    )
    triples = examples.map(lambda example: (example["tfds_id"], example[image], example[label])).ignore_errors()
    complete = _mark_missing(triples, images, f"{builder.info.full_name}, split {split},")

    def items(seed: Seed) -> tf.data.Dataset:
        return complete if seed is None else shuffle(complete, SHUFFLE_BUFFER, seed)

    return Source(
        images=images,
        classes=len(class_names(builder)),
        items=items,
        load=_load,
        named=lambda seed: items(seed).map(lambda name, data, label: (name, name, data, label)),
        fault=lambda *item: "has fewer examples than its metadata state: a file in its folder is damaged",
    )


def _mark_missing(triples: tf.data.Dataset, images: int, name: str) -> tf.data.Dataset:
    """Returns the triples (name, data, label), and one with empty data at the end if there are fewer than `images`."""

    def count(number: tf.Tensor, element: tuple) -> tuple:
        name, data, label, is_end = element
        return number + 1, (name, data, label, ~is_end | (number < images))

    end = tf.data.Dataset.from_tensors((name, b"", tf.constant(-1, tf.int64), True))
    marked = triples.map(lambda name, data, label: (name, data, label, False)).concatenate(end)
    counted = marked.scan(tf.constant(0, tf.int64), count)
    return counted.filter(lambda name, data, label, keep: keep).map(lambda name, data, label, keep: (name, data, label))


def _load(name: tf.Tensor, data: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(data) > 0, [name])]):
        return tf.identity(data), label
