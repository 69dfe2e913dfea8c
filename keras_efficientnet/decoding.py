"""Decodes JPEG, PNG, GIF, BMP and WebP files to RGB as Pillow does, with TensorFlow operations only.

TensorFlow's own decoders ignore the palettes and channel masks of BMP files, place the first frame of a GIF wrongly
if it is smaller than the image, and refuse WebP files that are animated or have transparency.
"""

from collections.abc import Callable

import tensorflow as tf

MAX_PIXELS = 2**27  # 400 MB of RGB; a file of a few hundred kB may have many more
LONGEST = 1 << 30  # bytes: to the end of any file
TOO_LARGE = f"more than the {MAX_PIXELS:,} that are decoded: scale it down"
BITS = (1, 4, 8, 24, 32)  # per pixel of a BMP that can be decoded
PALETTE_BITS = 8  # BMP files with at most this many bits per pixel have a palette
UNSUPPORTED_BMP = (
    f"is a BMP of an unsupported kind. It must be uncompressed, with {', '.join(map(str, BITS))} bits per pixel: "
    "convert it to PNG"
)
BGR_MASKS = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"  # of red, green and blue in the pixels of a BMP
UNCOMPRESSED, MASKED = 0, 3  # `compression` in the header of a BMP
EXTENSION, FRAME = 0x21, 0x2C  # first byte of a block of a GIF
GRAPHIC_CONTROL = 0xF9  # second byte of the extension that states the transparent colour
ANIMATION = 0x02  # flag in the header of an extended WebP
# Wraps a decoder in one call node: TensorFlow also spends time on the nodes of branches that are not taken.
separate = tf.function(
    input_signature=[tf.TensorSpec((), tf.string)], autograph=False, experimental_attributes={"_noinline": True}
)


def decode(data: tf.Tensor | bytes) -> tf.Tensor:
    """Decodes an image; of an animation the first frame. Transparent pixels keep their colour.

    Args:
        data: an encoded image, a string scalar.

    Returns:
        uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: the image cannot be decoded, or `find_fault` tells why it is not.
    """
    image = _by_format(data, _decode_other, _decode_gif, _decode_bmp, _decode_webp)
    return tf.ensure_shape(image, (None, None, 3))


def find_fault(data: tf.Tensor | bytes) -> tf.Tensor:
    """Returns why an image is not decoded, as far as its header tells, or "" if it tells nothing.

    Args:
        data: an encoded image, a string scalar.

    Raises:
        tf.errors.InvalidArgumentError: the header is incomplete.
    """
    return _by_format(data, _find_other_fault, _find_gif_fault, _find_bmp_fault, _find_webp_fault)


def explain(data: bytes) -> str:
    """Returns `find_fault` as text; "" also if the header cannot be read."""
    try:
        return find_fault(data).numpy().decode()
    except tf.errors.OpError:
        return ""


def check_size(data: tf.Tensor | bytes, size: tf.Tensor) -> tf.Tensor:
    """Returns the data of an image. Raises InvalidArgumentError if its height and width are too large."""
    fault = ["an image of", size, "pixels: " + TOO_LARGE]
    with tf.control_dependencies([tf.raw_ops.Assert(condition=~is_too_large(size), data=fault)]):
        return tf.identity(data)


def is_too_large(size: tf.Tensor) -> tf.Tensor:
    """Returns whether an image of a height and width has more than `MAX_PIXELS` pixels."""
    return tf.reduce_prod(tf.cast(size, tf.int64)) > MAX_PIXELS


def _describe_size(size: tf.Tensor) -> tf.Tensor:
    """Returns "" or that an image of this height and width is too large."""
    text = tf.strings.reduce_join(tf.strings.as_string(size), separator=" x ")
    return tf.where(is_too_large(size), tf.strings.join(["has ", text, f" pixels, {TOO_LARGE}"]), "")


def _by_format(data: tf.Tensor | bytes, other: Callable, gif: Callable, bmp: Callable, webp: Callable) -> tf.Tensor:
    """Applies the function for the format of an image, which TensorFlow's decoders tell by its first bytes."""
    data = tf.convert_to_tensor(data)
    number = tf.reduce_sum(tf.where(tf.strings.substr(data, 0, 2) == [b"GI", b"BM", b"RI"], [1, 2, 3], 0))
    return tf.switch_case(number, [lambda read=read: read(data) for read in (other, gif, bmp, webp)])


@separate
def _find_other_fault(data: tf.Tensor) -> tf.Tensor:
    """Returns what is wrong with a JPEG or a PNG, or "" for data of an unknown format."""
    return _describe_size(tf.cond(tf.io.is_jpeg(data), lambda: _jpeg_size(data), lambda: _png_size(data)))


@separate
def _decode_other(data: tf.Tensor) -> tf.Tensor:
    size = tf.cond(tf.io.is_jpeg(data), lambda: _jpeg_size(data), lambda: _png_size(data))
    return _decode_natively(check_size(data, size))


def _decode_natively(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def _integer(data: tf.Tensor, start: tf.Tensor | int, dtype: tf.DType = tf.int32, little_endian: bool = True):
    """Returns the integer at a position of the data, as int32."""
    text = tf.strings.substr(data, start, dtype.size)
    return tf.cast(tf.io.decode_raw(text, dtype, little_endian=little_endian)[0], tf.int32)


def _jpeg_size(data: tf.Tensor) -> tf.Tensor:
    return tf.image.extract_jpeg_shape(data)[:2]


def _png_size(data: tf.Tensor) -> tf.Tensor:
    """Returns height and width of a PNG, or 0 for data of an unknown format."""

    def read():
        return tf.stack([_integer(data, start, little_endian=False) for start in (20, 16)])

    return tf.cond(tf.strings.substr(data, 0, 4) == b"\x89PNG", read, lambda: tf.zeros(2, tf.int32))


@separate
def _find_bmp_fault(data: tf.Tensor) -> tf.Tensor:
    bits, compression = _integer(data, 28, tf.uint16), _integer(data, 30)
    is_plain = (compression == UNCOMPRESSED) & tf.reduce_any(bits == BITS)
    is_masked = (compression == MASKED) & (bits == 32) & (tf.strings.substr(data, 54, len(BGR_MASKS)) == BGR_MASKS)
    is_supported = (_integer(data, 14) >= 40) & (is_plain | is_masked)  # the header of OS/2 is shorter
    return tf.where(is_supported, _describe_size(_bmp_size(data)), UNSUPPORTED_BMP)


def _bmp_size(data: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.abs(_integer(data, 22)), _integer(data, 18)])  # rows from the top if the height is negative


@separate
def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    fault = _find_bmp_fault(data)
    with tf.control_dependencies([tf.raw_ops.Assert(condition=fault == "", data=[fault])]):
        data = tf.identity(data)
    height, width = tf.unstack(_bmp_size(data))
    bits, start = _integer(data, 28, tf.uint16), _integer(data, 10)
    row = (width * bits + 31) // 32 * 4  # bytes
    data = tf.strings.substr(data, 0, start + row * height)  # TensorFlow refuses data with more than the pixels

    def read_palette():
        pixels = tf.io.decode_raw(tf.strings.substr(data, start, row * height), tf.uint8)
        rows = tf.reshape(pixels, [height, row])
        rows = tf.cond(_integer(data, 22) < 0, lambda: rows, lambda: tf.reverse(rows, [0]))
        return _look_up(_bmp_palette(data), rows, bits)[:, :width]

    return tf.cond(bits > PALETTE_BITS, lambda: _decode_natively(data), read_palette)


def _bmp_palette(data: tf.Tensor) -> tf.Tensor:
    """Returns the colours of a BMP, uint8 [256, 3]; missing ones are black."""
    start = 14 + _integer(data, 14)
    entries = tf.strings.substr(data, start, tf.minimum(_integer(data, 10) - start, 4 * 256))
    colours = tf.reshape(tf.io.decode_raw(entries, tf.uint8), [-1, 4])[:, 2::-1]
    return tf.pad(colours, [[0, 256 - tf.shape(colours)[0]], [0, 0]])


def _look_up(colours: tf.Tensor, rows: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Returns the colours of pixels of 1, 2, 4 or 8 bits, uint8 [height, pixels in a row, 3]."""
    shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
    indices = tf.bitwise.right_shift(rows[:, :, tf.newaxis], shifts) & tf.cast(2**bits - 1, tf.uint8)
    return tf.gather(colours, tf.cast(tf.reshape(indices, [tf.shape(rows)[0], -1]), tf.int32))


@separate
def _find_gif_fault(data: tf.Tensor) -> tf.Tensor:
    return _describe_size(_gif_size(data, _find_gif_frame(data)[0]))


@separate
def _decode_gif(data: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame without the extensions before it: TensorFlow paints what is transparent black.

    What the frame does not cover has the transparent colour, or else the first one of the palette.
    """
    frame, control = _find_gif_frame(data)
    size = _gif_size(data, frame)
    header = tf.strings.substr(data, 0, _palette_end(data))
    image = _decode_natively(check_size(header, size) + b",\0\0\0\0" + tf.strings.substr(data, frame + 5, LONGEST))
    has_palette = _integer(data, frame + 9, tf.uint8) >= 128  # of its own
    is_transparent = (control > 0) & (_integer(data, control + 3, tf.uint8) % 2 == 1)
    index = tf.where(is_transparent, _integer(data, control + 6, tf.uint8), 0)
    colour = tf.strings.substr(data, tf.where(has_palette, frame + 10, 13) + 3 * index, 3)
    return _place(image, _gif_window(data, frame)[0], size, tf.io.decode_raw(colour, tf.uint8))


def _gif_size(data: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
    """Returns height and width; the first frame may be larger than the header says."""
    corner, size = _gif_window(data, frame)
    return tf.maximum(tf.stack([_integer(data, start, tf.uint16) for start in (8, 6)]), corner + size)


def _gif_window(data: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (top, left) and (height, width) of the frame at a position."""
    top, left, height, width = (_integer(data, frame + start, tf.uint16) for start in (3, 1, 7, 5))
    return tf.stack([top, left]), tf.stack([height, width])


def _palette_end(data: tf.Tensor) -> tf.Tensor:
    """Returns where the header of a GIF ends, with its palette if it has one."""
    flags = _integer(data, 10, tf.uint8)
    return 13 + tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)


def _find_gif_frame(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the positions of the first frame, and of the extension with its transparent colour or else 0."""
    values = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)

    def is_before_frame(position, inside, control):
        return inside | (values[position] == EXTENSION)

    def skip_block(position, inside, control):
        length = tf.where(inside, 1 + values[position], 2)
        is_control = ~inside & (values[position + 1] == GRAPHIC_CONTROL)
        return position + length, ~inside | (length > 1), tf.where(is_control, position, control)

    start = (_palette_end(data), tf.constant(False), tf.constant(0))
    frame, _, control = tf.while_loop(is_before_frame, skip_block, start)
    with tf.control_dependencies([tf.raw_ops.Assert(condition=values[frame] == FRAME, data=["a GIF without image"])]):
        return tf.identity(frame), control


def _place(image: tf.Tensor, corner: tf.Tensor, size: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Places a frame at `corner` of an image of `size` and of one colour."""

    def pad():
        margins = tf.stack([corner, size - corner - tf.shape(image)[:2]], axis=1)
        return tf.pad(image - colour, tf.concat([margins, [[0, 0]]], axis=0)) + colour  # modulo 256

    return tf.cond(tf.reduce_all(tf.shape(image)[:2] == size), lambda: image, pad)


@separate
def _find_webp_fault(data: tf.Tensor) -> tf.Tensor:
    return _describe_size(_webp_size(data))


def _webp_size(data: tf.Tensor) -> tf.Tensor:
    """Returns height and width of a WebP: extended, lossless or lossy."""
    kind = tf.strings.substr(data, 12, 4)

    def read_extended():
        return tf.stack([1 + _integer(data, start) % 2**24 for start in (27, 24)])

    def read_lossless():
        sizes = _integer(data, 21)
        return 1 + tf.stack([sizes // 2**14, sizes]) % 2**14

    def read_lossy():
        return tf.stack([_integer(data, start, tf.uint16) % 2**14 for start in (28, 26)])

    return tf.case([(kind == b"VP8X", read_extended), (kind == b"VP8L", read_lossless)], default=read_lossy)


@separate
def _decode_webp(data: tf.Tensor) -> tf.Tensor:
    """Decodes a WebP with or without transparency, or the first frame of an animation."""
    data = check_size(data, _webp_size(data))
    is_extended = tf.strings.substr(data, 12, 4) == b"VP8X"
    is_animated = is_extended & (_integer(data, 20, tf.uint8) // ANIMATION % 2 == 1)
    return tf.cond(is_animated, lambda: _decode_animated_webp(data), lambda: _decode_still_webp(data))


def _decode_still_webp(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(data, channels=0, expand_animations=False)[:, :, :3]


def _decode_animated_webp(data: tf.Tensor) -> tf.Tensor:
    """Decodes the first frame: makes the header that of an image like the frame, and ends the chunk before its data.

    TensorFlow's own decoder of animations writes beyond its memory.
    """
    length = tf.strings.length(data)

    def is_before_frame(start):
        return tf.strings.substr(data, start, 4) != b"ANMF"

    def skip_chunk(start):
        size = tf.clip_by_value(_integer(data, start + 4), 0, length)
        return (start + 8 + size + size % 2,)

    frame = tf.while_loop(is_before_frame, skip_chunk, (tf.constant(12),))[0]
    parts = (
        tf.strings.substr(data, 0, 20) + b"\x10\0\0\0",  # an image with transparency
        tf.strings.substr(data, frame + 14, 6),  # its size
        tf.strings.substr(data, 30, frame - 26) + b"\x10\0\0\0",  # the chunk has only the 16 bytes about the frame
        tf.strings.substr(data, frame + 8, LONGEST),
    )
    corner = tf.stack([2 * (_integer(data, frame + start) % 2**24) for start in (11, 8)])
    return _place(_decode_still_webp(tf.strings.join(parts)), corner, _webp_size(data), tf.constant(0, tf.uint8))
