"""Broken examples: found, put into words, and never passed over in silence.

A record is broken where its file is cut off or a checksum is wrong, where it is no tf.train.Example with the two keys
that are read, where its label is none of the classes, or where its picture cannot be decoded. libjpeg itself only warns
of noise in a JPEG and returns garbage: `is_corrupt` looks for it.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source

MARKERS_IN_DATA = (0x00, *range(0xD0, 0xD8))  # after 0xFF: a stuffed byte, restarts; ITU-T T.81, B.1.1.2 and B.1.1.5
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9


def is_corrupt(data):
    """Whether a JPEG has, between its last header and its end, a marker that cannot be there; False for other files.

    Noise of n bytes is found with a chance of about 1 - (1 - 0.96 / 256) ** n: 98 % at 1 kB. Damage in all but the last
    scan of a progressive JPEG is not looked for.
    """
    parts = tf.strings.split(data, b"\xff") + b"\0"  # a part that was empty is a fill byte, which is allowed
    markers = tf.io.decode_raw(tf.strings.substr(parts, 0, 1), tf.uint8)[:, 0]
    place = tf.range(tf.size(markers))
    start = tf.reduce_max(tf.where(markers == START_OF_SCAN, place, 0))
    end = tf.reduce_min(tf.where((markers == END_OF_IMAGE) & (place > start), place, tf.size(markers)))
    allowed = (markers == MARKERS_IN_DATA[0]) | ((markers >= MARKERS_IN_DATA[1]) & (markers <= MARKERS_IN_DATA[-1]))
    return tf.io.is_jpeg(data) & tf.reduce_any((place > start) & (place < end) & ~allowed)


def read(source: Source, classes: int, item):
    """(bytes of the picture, int32 label from 0) of an item. An error of TensorFlow, which has no words, if broken."""
    data, label = source.load(*item)
    sound = (label >= 0) & (label < classes) & ~is_corrupt(data)
    with tf.control_dependencies([tf.debugging.Assert(sound, [label])]):
        return tf.identity(data), tf.cast(label, tf.int32)


def explain(source: Source, classes: int, item):
    """What is wrong with an item, with its name; "" where nothing is."""
    data, label, loaded = _attempt(
        lambda: (*source.load(*item), True), otherwise=(b"", tf.constant(0, tf.int64), False)
    )
    first, last = source.first_label, source.first_label + classes - 1
    received = tf.strings.as_string(label + first)
    cases = (
        (loaded, source.fault(*item)),
        (
            (label >= 0) & (label < classes),
            tf.strings.join(["has label ", received, f"; for {classes} classes it must be {first} to {last}"]),
        ),
        (~is_corrupt(data), "holds a corrupt JPEG"),
        (_decodes(data), "holds no picture that can be decoded: JPEG, PNG, GIF, BMP or WebP"),
    )
    problem = tf.constant("")
    for sound, words in reversed(cases):
        problem = tf.where(sound, problem, words)
    return tf.where(problem == "", "", tf.strings.join([source.name(*item), " ", problem]))


def _decodes(data):
    def decode():
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return tf.size(image) > 0

    return _attempt(decode, otherwise=False)


def _attempt(function: Callable[[], Any], otherwise):
    """The value of a function, or another where it raises: try and except in a graph."""
    value = tf.data.Dataset.from_tensors(0).map(lambda _: function()).ignore_errors()
    return value.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def check_first(source: Source, classes: int) -> None:
    """Reads one example: data of a wrong kind stop a run at its start. Raises ValueError if it is broken."""
    for item in source.items(None).take(1):
        problem = explain(source, classes, item).numpy().decode()
        if problem:
            raise ValueError(problem + ". Check `dataset` and `num_label_classes`, or say `skip_broken_records`.")


def find_broken(source: Source, classes: int) -> tuple[int, list[str]]:
    """Reads a split once: the number of good examples, and what is wrong with each of the others."""
    words = source.items(None).map(lambda *item: explain(source, classes, item), num_parallel_calls=tf.data.AUTOTUNE)
    good, broken = 0, []
    for problem in words.as_numpy_iterator():
        good += problem == b""
        if problem:
            broken.append(problem.decode())
    return good, broken


def without(source: Source, classes: int) -> tuple[Source, list[str]]:
    """The source without its broken examples, and what is wrong with each of these.

    Raises:
        ValueError: nothing is left.
    """
    good, broken = find_broken(source, classes)
    if not good:
        raise ValueError(f"All {len(broken)} examples are broken. The first: {broken[0]}")
    if not broken:
        return source._replace(images=good), []
    problems = tf.constant(broken)

    def is_good(*item):
        prefix = tf.strings.join([source.name(*item), " "])
        return tf.reduce_all(tf.strings.substr(problems, 0, tf.strings.length(prefix)) != prefix)

    return source._replace(images=good, items=lambda seed: source.items(seed).filter(is_good)), broken


def map_or_stop(items: tf.data.Dataset, function, describe) -> tf.data.Dataset:
    """`items.map(function)` in order; an item that fails stops the reading with what `describe` says of it.

    TensorFlow's own error does not say which item failed. So the errors are let go, each item carries the one before,
    and where one is missing in the results, that one is described. An item more marks the end.

    Args:
        items: tuples of scalars.
        function: item -> tensors of static shape.
        describe: item -> string scalar.
    """
    nothing = _zeros(items.element_spec)
    blank = _zeros(items.map(function).element_spec)

    def pair(state, element):
        (number, previous), (item, ends) = state, element
        return (number + 1, item), (number, previous, item, ends)

    def run(number, previous, item, ends):
        return number, previous, tf.cond(ends, lambda: blank, lambda: function(*item)), ends

    def check(expected, element):
        number, previous, result, ends = element
        words = tf.cond(number == expected, lambda: "", lambda: describe(*previous))
        with tf.control_dependencies([tf.debugging.Assert(number == expected, [words])]):
            return number + 1, (tf.nest.map_structure(tf.identity, result), ends)

    marked = items.map(lambda *item: (item, False)).concatenate(tf.data.Dataset.from_tensors((nothing, True)))
    pairs = marked.scan((tf.constant(0, tf.int64), nothing), pair)
    results = pairs.map(run, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).ignore_errors()
    checked = results.scan(tf.constant(0, tf.int64), check)
    return checked.filter(lambda _, ends: ~ends).map(lambda result, _: result)


def _zeros(spec):
    return tf.nest.map_structure(lambda part: tf.zeros(part.shape, part.dtype), spec)
