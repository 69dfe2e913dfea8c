"""Finds broken examples and describes them.

A record is broken if its file is cut off, a checksum is wrong, it is not a tf.train.Example with the two required keys,
its label is not one of the classes, or its image cannot be decoded. libjpeg decodes noise in a JPEG to garbage with
only a warning: `is_corrupt` finds it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_efficientnet.datasets.sources import Source
from keras_efficientnet.decoding import decode, find_fault, is_too_large
from keras_efficientnet.paths import IMAGE_FORMATS

ERRORS = (  # raised by a pipeline for broken data
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.OutOfRangeError,
    tf.errors.UnknownError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder in place of a file
    UnicodeDecodeError,  # raised by TensorFlow if its message contains the bytes of a record
)
MARKERS_IN_DATA = (0x00, *range(0xD0, 0xD8))  # after 0xFF: stuffed byte, restarts; ITU-T T.81, B.1.1.2 and B.1.1.5
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SMALL = 4 << 10  # bytes; longer noise has a stray marker with a probability of 1 - 1e-6
FILLER = bytes([0, *((37 * number + 91) % 255 for number in range(1, 16))])  # forms no marker, not even after 0xFF
BLOCK = 8  # rows of the lowest blocks of a JPEG
SHORTEST_SCAN = 3 * len(FILLER)  # bytes, with its header


def is_corrupt(data: tf.Tensor | bytes) -> tf.Tensor:
    """Returns whether a JPEG evidently holds noise instead of image data. Returns False for other files.

    Noise contains markers that are not allowed in image data. A small file without such markers is noise if decoding
    needs more data than the file has, or does not need the end of it. Not found: damage in a long JPEG without stray
    markers, and in any scan but the last of a progressive JPEG. The checksums of records cover these cases.
    """
    has_stray_marker = _has_stray_marker(data)
    is_small = ~has_stray_marker & tf.io.is_jpeg(data) & (tf.strings.length(data) < SMALL)
    return tf.cond(is_small, lambda: _has_wrong_length(data), lambda: has_stray_marker)


def _has_wrong_length(data: tf.Tensor | bytes) -> tf.Tensor:
    """Returns whether decoding needs more data than the JPEG has, or does not need its last bytes.

    libjpeg only warns of either. Checks only baseline files with one scan whose last blocks have more than one row.
    An image of a single colour may not need its last bytes.
    """
    scans = tf.strings.split(data, b"\xff\xda")
    is_checked = tf.size(scans) == 2
    is_checked &= tf.strings.length(scans[-1]) > SHORTEST_SCAN
    is_checked &= tf.strings.substr(data, -2, 2) == b"\xff\xd9"
    return tf.cond(is_checked, lambda: _depends_on_filler(data), lambda: tf.constant(False))


def _depends_on_filler(data: tf.Tensor | bytes) -> tf.Tensor:
    """Compares the image with those decoded after filler was appended to the data, and after it replaced their end.

    The last row is left out: libjpeg then does not look at what follows the image data, and does not warn of it.
    """
    size, shape = tf.strings.length(data) - 2, tf.image.extract_jpeg_shape(data)
    longer = tf.strings.substr(data, 0, size) + FILLER + b"\xff\xd9"
    replaced = tf.strings.substr(data, 0, size - len(FILLER)) + 64 * FILLER + b"\xff\xd9"
    window = tf.concat([[0, 0], shape[:2] - [1, 0]], axis=0)

    def compare():
        images = [tf.image.decode_and_crop_jpeg(each, window, channels=3) for each in (data, longer, replaced)]
        needs_more = tf.reduce_any(images[0] != images[1])
        is_plain = tf.reduce_all(images[0] == images[0][:1, :1])
        return needs_more | (tf.reduce_all(images[0] == images[2]) & ~is_plain)

    return tf.cond(((shape[0] - 1) % BLOCK > 0) & ~is_too_large(shape[:2]), compare, lambda: tf.constant(False))


def _has_stray_marker(data: tf.Tensor | bytes) -> tf.Tensor:
    """Returns whether a JPEG has a marker that is not allowed between its last header and its end.

    1 kB of noise has one in 95 of 100 cases.
    """
    parts = tf.strings.split(data, b"\xff") + b"\0"  # an empty part is a fill byte, which is allowed
    markers = tf.io.decode_raw(tf.strings.substr(parts, 0, 1), tf.uint8)[:, 0]
    index = tf.range(tf.size(markers))
    start = tf.reduce_max(tf.where(markers == START_OF_SCAN, index, 0))
    end = tf.reduce_min(tf.where((markers == END_OF_IMAGE) & (index > start), index, tf.size(markers)))
    allowed = (markers == MARKERS_IN_DATA[0]) | ((markers >= MARKERS_IN_DATA[1]) & (markers <= MARKERS_IN_DATA[-1]))
    return tf.io.is_jpeg(data) & (start > 0) & tf.reduce_any((index > start) & (index < end) & ~allowed)


def read(source: Source, item: Any, *, search: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (encoded image, int32 label from 0) of an item. If it is broken, TensorFlow's error does not name it.

    Args:
        source: of the item.
        item: element of `source.items`.
        search: whether to search JPEGs for noise, which takes a tenth of the time.
    """
    data, label = source.load(*tf.nest.flatten(item))
    valid = (label >= 0) & (label < source.classes)
    if search:
        valid &= ~is_corrupt(data)
    # not tf.debugging.Assert, which adds a tf.cond
    with tf.control_dependencies([tf.raw_ops.Assert(condition=valid, data=[label])]):
        return tf.identity(data), tf.cast(label, tf.int32)


@contextlib.contextmanager
def report_broken(problem: Callable[[], str | None]) -> Iterator[None]:
    """Replaces an error of TensorFlow by a ValueError that describes the broken example.

    Args:
        problem: called after an error; describes the example, or returns None if no example is broken.

    Raises:
        ValueError: an example is broken.
    """
    try:
        yield
    except ERRORS as error:
        description = problem()
        if description is None:
            raise
        raise ValueError(
            f"{description}. Repair it, or set `skip_broken_records` to leave out all broken examples."
        ) from error


def first_problem(source: Source, named: tf.data.Dataset) -> str | None:
    """Describes the first broken example among items of `source.named`. Returns None if none is broken."""
    found = _described(source, named).filter(lambda problem: problem != "").take(1)
    return next((problem.decode() for problem in found.as_numpy_iterator()), None)


def _described(source: Source, named: tf.data.Dataset) -> tf.data.Dataset:
    return named.map(lambda *item: describe(source, *item), num_parallel_calls=tf.data.AUTOTUNE)


def describe(source: Source, name: tf.Tensor, *item: tf.Tensor) -> tf.Tensor:
    """Returns the name of an item and what is wrong with it, or "" if the item is valid."""
    data, label, loaded = _attempt(lambda: (*source.load(*item), True), fallback=(b"", tf.constant(0, tf.int64), False))
    first, last = source.first_label, source.first_label + source.classes - 1
    received = tf.strings.as_string(label + first)
    fault = _attempt(lambda: find_fault(data), fallback=tf.constant(""))
    checks = (
        (loaded, source.fault(*item)),
        (
            (label >= 0) & (label < source.classes),
            tf.strings.join(["has label ", received, f"; for {source.classes} classes it must be {first} to {last}"]),
        ),
        (fault == "", fault),
        (~_attempt(lambda: is_corrupt(data), fallback=tf.constant(False)), "holds a corrupt JPEG"),
        (_decodes(data), f"holds no image that can be decoded: {IMAGE_FORMATS}"),
    )
    problem = tf.constant("")
    for passed, message in reversed(checks):
        problem = tf.where(passed, problem, message)
    return tf.where(problem == "", "", tf.strings.join([name, " ", problem]))


def _decodes(data: tf.Tensor) -> tf.Tensor:
    return _attempt(lambda: tf.size(decode(data)) > 0, fallback=tf.constant(False))


def _attempt(function: Callable[[], Any], fallback: Any) -> Any:
    """Returns the result of a function, or `fallback` if it raises, also in a graph."""
    if tf.executing_eagerly():
        try:
            return function()
        except (tf.errors.OpError, UnicodeDecodeError):
            return fallback
    value = tf.data.Dataset.from_tensors(0).map(lambda _: function()).ignore_errors()
    return value.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1).get_single_element()


def check_first(source: Source) -> None:
    """Raises ValueError if the first example is broken, so that data of a wrong kind stop a run at its start."""
    for item in source.named(None).take(1):
        problem = describe(source, *item).numpy().decode()  # eager: for one example, faster than tracing a graph
        if problem:
            raise ValueError(
                f"{problem}. Repair or remove it, or set `skip_broken_records`. If all data are like it, check "
                "`dataset` and `num_label_classes`."
            )


def find_broken(source: Source) -> tuple[int, list[str]]:
    """Reads a split once. Returns the number of valid examples, and a description of each broken example."""
    valid, broken = 0, []
    for problem in _described(source, source.named(None)).as_numpy_iterator():
        valid += problem == b""
        if problem:
            broken.append(problem.decode())
    return valid, broken


def without_broken(source: Source) -> tuple[Source, list[str]]:
    """Returns the source without its broken examples, and a description of each broken example.

    Raises:
        ValueError: all examples are broken.
    """
    valid, broken = find_broken(source)
    if not valid:
        raise ValueError(f"All {len(broken)} examples are broken. The first: {broken[0]}")
    if not broken:
        return source._replace(images=valid), []
    problems = tf.constant(broken)

    def is_valid(name: tf.Tensor, *item: tf.Tensor) -> tf.Tensor:
        prefix = name + " "
        return tf.reduce_all(tf.strings.substr(problems, 0, tf.strings.length(prefix)) != prefix)

    def named(seed: tf.Tensor | None) -> tf.data.Dataset:
        return source.named(seed).filter(is_valid)

    def items(seed: tf.Tensor | None) -> tf.data.Dataset:
        return named(seed).map(lambda name, *item: item)

    return source._replace(images=valid, items=items, named=named), broken
