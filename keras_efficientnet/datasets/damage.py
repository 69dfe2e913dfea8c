"""Broken examples: found, put into words, and never passed over in silence.

A record is broken where its file is cut off or a checksum is wrong, where it is no tf.train.Example with the two keys
that are read, where its label is none of the classes, or where its picture cannot be decoded. libjpeg itself only warns
of noise in a JPEG and returns garbage: `is_corrupt` looks for it.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source

ERRORS = (  # that broken data raise in a pipeline
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.UnknownError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    UnicodeDecodeError,  # of TensorFlow, where its message holds the bytes of a record
)
MARKERS_IN_DATA = (0x00, *range(0xD0, 0xD8))  # after 0xFF: a stuffed byte, restarts; ITU-T T.81, B.1.1.2 and B.1.1.5
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SMALL = 4 << 10  # bytes; in longer noise a marker is certain, to one in a million
FOREIGN = bytes([0, *((37 * place + 91) % 255 for place in range(1, 16))])  # no marker among or before them
BLOCK = 8  # rows of the lowest blocks of a JPEG
SHORTEST_SCAN = 3 * len(FOREIGN)  # with its header, in bytes


def is_corrupt(data):
    """Whether a JPEG holds noise in place of its picture, as far as that shows; False for other files.

    Noise has markers that cannot be there, or, in a small file, an end that the picture does not reach or runs beyond.
    Damage in the midst of a long JPEG that keeps to the rules of markers, and in all but the last scan of a progressive
    one, is not looked for: the checksums of the records are for those.
    """
    is_stray = _has_stray_marker(data)
    is_sought = ~is_stray & tf.io.is_jpeg(data) & (tf.strings.length(data) < SMALL)
    return tf.cond(is_sought, lambda: _ends_elsewhere(data), lambda: is_stray)


def _ends_elsewhere(data):
    """Whether the picture takes bytes that follow its own, or does not take its own last ones.

    libjpeg only warns of either. Of baseline files with one scan, whose last row is not the only one of its blocks; one
    of a single colour may not need its last bytes.
    """
    scans = tf.strings.split(data, b"\xff\xda")
    sought = tf.size(scans) == 2
    sought &= tf.strings.length(scans[-1]) > SHORTEST_SCAN
    sought &= tf.strings.substr(data, -2, 2) == b"\xff\xd9"

    return tf.cond(sought, lambda: _differs_with_other_ends(data), lambda: False)


def _differs_with_other_ends(data):
    """Without its last row the picture is decoded whole, and libjpeg does not look at, and warn of, what follows it."""
    size, shape = tf.strings.length(data) - 2, tf.image.extract_jpeg_shape(data)
    longer = tf.strings.substr(data, 0, size) + FOREIGN + b"\xff\xd9"
    other = tf.strings.substr(data, 0, size - len(FOREIGN)) + 64 * FOREIGN + b"\xff\xd9"
    window = tf.concat([[0, 0], shape[:2] - [1, 0]], axis=0)

    def search():
        pictures = [tf.image.decode_and_crop_jpeg(each, window, channels=3) for each in (data, longer, other)]
        takes_more = tf.reduce_any(pictures[0] != pictures[1])
        is_plain = tf.reduce_all(pictures[0] == pictures[0][:1, :1])
        return takes_more | (tf.reduce_all(pictures[0] == pictures[2]) & ~is_plain)

    return tf.cond((shape[0] - 1) % BLOCK > 0, search, lambda: False)


def _has_stray_marker(data):
    """Whether a JPEG has, between its last header and its end, a marker that cannot be there.

    Noise of 1 kB has one in 95 of 100 cases.
    """
    parts = tf.strings.split(data, b"\xff") + b"\0"  # a part that was empty is a fill byte, which is allowed
    markers = tf.io.decode_raw(tf.strings.substr(parts, 0, 1), tf.uint8)[:, 0]
    place = tf.range(tf.size(markers))
    start = tf.reduce_max(tf.where(markers == START_OF_SCAN, place, 0))
    end = tf.reduce_min(tf.where((markers == END_OF_IMAGE) & (place > start), place, tf.size(markers)))
    allowed = (markers == MARKERS_IN_DATA[0]) | ((markers >= MARKERS_IN_DATA[1]) & (markers <= MARKERS_IN_DATA[-1]))
    return tf.io.is_jpeg(data) & (start > 0) & tf.reduce_any((place > start) & (place < end) & ~allowed)


def read(source: Source, classes: int, item, *, search: bool = True):
    """(bytes of the picture, int32 label from 0) of an item. An error of TensorFlow, which names nothing, if broken.

    Args:
        source: where the item is from.
        classes: how many.
        item: of `source.items`.
        search: whether to search a JPEG for noise; that takes a tenth of the time.
    """
    data, label = source.load(*tf.nest.flatten(item))
    sound = (label >= 0) & (label < classes)
    if search:
        sound &= ~is_corrupt(data)
    # not tf.debugging.Assert, which makes a tf.cond of it
    with tf.control_dependencies([tf.raw_ops.Assert(condition=sound, data=[label])]):
        return tf.identity(data), tf.cast(label, tf.int32)


@contextlib.contextmanager
def in_words(problem: Callable[[], str | None]):
    """Errors of TensorFlow within become the words that `problem` gives, where it gives any.

    Raises:
        ValueError: with these words.
    """
    try:
        yield
    except ERRORS as error:
        words = problem()
        if words is None:
            raise
        raise ValueError(
            f"{words}. Mend it, or say `skip_broken_records`, which leaves out all that are broken."
        ) from error


def first_problem(source: Source, classes: int, named: tf.data.Dataset) -> str | None:
    """What is wrong with the first broken one of some items of `source.named`; None where nothing is."""
    found = _explained(source, classes, named).filter(lambda problem: problem != "").take(1)
    return next((problem.decode() for problem in found.as_numpy_iterator()), None)


def _explained(source, classes, named):
    return named.map(lambda *item: explain(source, classes, *item), num_parallel_calls=tf.data.AUTOTUNE)


def explain(source: Source, classes: int, name, *item):
    """What is wrong with a named item, with its name; "" where nothing is."""
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
        (~_attempt(lambda: is_corrupt(data), otherwise=False), "holds a corrupt JPEG"),
        (_decodes(data), "holds no picture that can be decoded: JPEG, PNG, GIF, BMP or WebP"),
    )
    problem = tf.constant("")
    for sound, words in reversed(cases):
        problem = tf.where(sound, problem, words)
    return tf.where(problem == "", "", tf.strings.join([name, " ", problem]))


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
    problem = first_problem(source, classes, source.named(None).take(1))
    if problem:
        raise ValueError(problem + ". Check `dataset` and `num_label_classes`, or say `skip_broken_records`.")


def find_broken(source: Source, classes: int) -> tuple[int, list[str]]:
    """Reads a split once: the number of good examples, and what is wrong with each of the others."""
    good, broken = 0, []
    for problem in _explained(source, classes, source.named(None)).as_numpy_iterator():
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

    def is_good(name, *item):
        prefix = name + " "
        return tf.reduce_all(tf.strings.substr(problems, 0, tf.strings.length(prefix)) != prefix)

    def named(seed):
        return source.named(seed).filter(is_good)

    return source._replace(
        images=good, items=lambda seed: named(seed).map(lambda name, *item: item), named=named
    ), broken
