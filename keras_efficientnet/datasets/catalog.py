"""Data sets by their names in TensorFlow Datasets, by its own reader; labels from 0, pictures not yet decoded."""

from typing import Any

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source, shuffle
from keras_efficientnet.datasets.transfer import TRANSFER

SHUFFLE_BUFFER = 16_384  # records; their order in the files is random already
HELD_OUT = "90%"  # of "train" is trained on where there is neither a "validation" nor a "test" split


def make_builder(name: str, data_dir: str | None) -> Any:
    """The builder of a data set, which is downloaded and prepared where it is not yet.

    Raises:
        ImportError: tensorflow-datasets is not installed.
        ValueError: there is no data set of that name.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"`dataset={name}` is taken from tensorflow-datasets, which is not installed: "
            'pip install "keras_efficientnet[tfds]". Without it: sample, records, folder.'
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"`dataset` must be sample, records, folder or a name in tensorflow-datasets (`data_dir` is then its "
            f"folder). Received: dataset={name!r}"
        ) from error
    builder.download_and_prepare()
    return builder


def find_splits(builder) -> dict[str, str]:
    """The splits to train and to evaluate on, which share no example; of the paper's sets those of the paper."""
    paper = TRANSFER.get(builder.name)
    if paper and paper.splits:
        return dict(zip(("train", "validation"), paper.splits, strict=True))
    there = builder.info.splits
    held = next((split for split in ("validation", "test") if split in there), None)
    if held:
        return {"train": "train", "validation": held}
    return {"train": f"train[:{HELD_OUT}]", "validation": f"train[{HELD_OUT}:]"}


def find_features(builder) -> tuple[str, str]:
    """The keys of the picture and of the label. Raises ValueError where there is not one of each."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    pair = tuple(
        next((key for key, feature in features.items() if isinstance(feature, kind)), None)
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if None in pair:
        raise ValueError(f"{builder.info.full_name} is no set of pictures with a label each. It has: {list(features)}.")
    return pair  # type: ignore[return-value]


def class_names(builder) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels."""
    return tuple(builder.info.features[find_features(builder)[1]].names)


def open_split(builder, split: str) -> Source:
    """A split as a source; shuffled through a buffer, as the files hold the examples in a random order already."""
    import tensorflow_datasets as tfds

    picture, label = find_features(builder)
    images = builder.info.splits[split].num_examples
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={picture: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(add_tfds_id=True, try_autocache=False, assert_cardinality=False),
    )
    triples = examples.map(lambda example: (example["tfds_id"], example[picture], example[label])).ignore_errors()
    numbered = _count(triples, images, f"{builder.info.full_name}, split {split},")

    def items(seed):
        return numbered if seed is None else shuffle(numbered, SHUFFLE_BUFFER, seed)

    return Source(
        images,
        items,
        _load,
        lambda seed: items(seed).map(lambda place, data, label: (place, place, data, label)),
        fault=lambda *item: "has fewer examples than it says: a file in its folder is damaged",
    )


def _count(triples, images, name):
    """The triples, and one with an empty picture where some of them could not be read."""

    def number_it(number, element):
        place, data, label, ends = element
        return number + 1, (place, data, label, ~ends | (number < images))

    end = tf.data.Dataset.from_tensors((name, b"", tf.constant(-1, tf.int64), True))
    marked = triples.map(lambda place, data, label: (place, data, label, False)).concatenate(end)
    numbered = marked.scan(tf.constant(0, tf.int64), number_it)
    return numbered.filter(lambda place, data, label, keep: keep).map(
        lambda place, data, label, keep: (place, data, label)
    )


def _load(place, data, label):
    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(data) > 0, [place])]):
        return tf.identity(data), label
