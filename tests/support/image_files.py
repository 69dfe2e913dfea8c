"""Image files of every kind, most of them written byte by byte: Pillow writes few kinds of BMP and PNG."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 10, 13  # rows of a BMP are padded to four bytes
RED = (np.add.outer(np.arange(HEIGHT) * 13, np.arange(WIDTH) * 9) % 256).astype("uint8")
RGB = np.stack([RED, 255 - RED, 3 * RED], axis=-1)
ALPHA = np.concatenate([RGB, RED[:, :, None]], axis=-1)
FRAMES = [Image.fromarray(RGB), Image.fromarray(RGB[::-1, ::-1])]


def saved(image, kind, **options):
    """Returns the bytes that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bmp(bits, rows, palette=b"", *, compression=0, header=40, height=HEIGHT, masks=b"", gap=0):
    """Returns a BMP; `rows` are bytes, `height` is negative if the first row is the upper one."""
    if header == 12:
        fields = struct.pack("<IHHHH", 12, WIDTH, height, 1, bits)
    else:
        fields = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, 0, 0, 0, len(palette) // 4, 0)
        fields = (fields + masks).ljust(header, b"\0")
    start = 14 + len(fields) + len(palette) + gap
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + fields + palette + bytes(gap) + rows


def packed(values, bits):
    """Returns rows of a BMP from the lowest to the highest, each padded to four bytes."""
    if values.ndim == 3:
        rows = values.reshape(len(values), -1)
    else:
        digits = values[:, :, None] >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(digits.reshape(len(values), -1).astype("uint8"), axis=1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1].tobytes()


def bmps():
    """Returns the kinds of BMP that can be decoded."""
    random, files = np.random.default_rng(0), {}
    for bits in (1, 4, 8):
        indices = random.integers(0, 2**bits, (HEIGHT, WIDTH))
        palette = random.integers(0, 256, (2**bits, 4), "uint8")
        gray = np.repeat(np.linspace(0, 255, 2**bits).astype("uint8")[:, None], 4, axis=1)
        rows = packed(indices, bits)
        files[f"{bits} bits"] = bmp(bits, rows, palette.tobytes())
        files[f"{bits} bits, from the top"] = bmp(bits, packed(indices[::-1], bits), palette.tobytes(), height=-HEIGHT)
        files[f"{bits} bits, long header"] = bmp(bits, rows, palette.tobytes(), header=124)
        files[f"{bits} bits, gray"] = bmp(bits, rows, gray.tobytes())
        files[f"{bits} bits, gray from white to black"] = bmp(bits, rows, gray[::-1].tobytes())
        half = max(2, 2**bits // 2)
        files[f"{bits} bits, {half} colours"] = bmp(bits, packed(indices % half, bits), palette[:half].tobytes(), gap=8)
    bgr, bgra = RGB[:, :, ::-1], ALPHA[:, :, [2, 1, 0, 3]]
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    return files | {
        "24 bits": bmp(24, packed(bgr, 24)),
        "24 bits, from the top": bmp(24, packed(bgr[::-1], 24), height=-HEIGHT),
        "24 bits, palette": bmp(24, packed(bgr, 24), bytes(1024)),
        "24 bits, more data": bmp(24, packed(bgr, 24), header=108) + b"xx",
        "32 bits": bmp(32, packed(bgra, 32)),
        "32 bits, from the top": bmp(32, packed(bgra[::-1], 32), height=-HEIGHT),
        "32 bits, masks": bmp(32, packed(bgra, 32), compression=3, header=56, masks=masks + b"\0\0\0\xff"),
        "32 bits, masks after the header": bmp(32, packed(bgra, 32), masks, compression=3),
        **{f"Pillow's {mode}": saved(FRAMES[0].convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
    }


def unsupported_bmps():
    """Returns the kinds of BMP that cannot be decoded. One of them is as long as if it were not compressed."""
    runs = {8: b"".join(bytes([1, value]) for value in RED.ravel()), 4: bytes([WIDTH, 0x11, 0, 0] * HEIGHT)}
    gray = np.repeat(np.arange(256, dtype="uint8")[:, None], 4, axis=1).tobytes()
    bgr, abgr = RGB[:, :, ::-1], ALPHA[:, :, ::-1]
    masks = struct.pack("<IIII", 0xFF000000, 0xFF0000, 0xFF00, 0xFF)
    return {
        "8 bits, RLE": bmp(8, runs[8], gray, compression=1),
        "8 bits, RLE of 160 bytes": bmp(8, (bytes([WIDTH, 7, 0, 0]) * HEIGHT).ljust(160, b"\0"), gray, compression=1),
        "4 bits, RLE": bmp(4, runs[4], gray[:64], compression=2),
        "16 bits": bmp(16, packed(RGB[:, :, :2], 16)),
        "16 bits, masks": bmp(16, packed(RGB[:, :, :2], 16), struct.pack("<III", 0xF800, 0x7E0, 0x1F), compression=3),
        "24 bits, header of OS/2": bmp(24, packed(bgr, 24), header=12),
        "8 bits, header of OS/2": bmp(8, packed(RED, 8), gray, header=12),
        "32 bits, other masks": bmp(32, packed(abgr, 32), compression=3, header=108, masks=masks),
        "JPEG inside": bmp(0, saved(FRAMES[0], "JPEG"), compression=4),
    }


def png(colour, bits, rows, *, chunks=(), interlaced=0, height=HEIGHT, width=WIDTH):
    """Returns a PNG of the rows of the image, or of its seven passes."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def filtered(values):
    """Returns the rows of a PNG."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def passes(values):
    """Returns the rows of an interlaced PNG."""
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(filtered(values[top::down, left::right]) for top, left, down, right in steps)


def pngs():
    """Returns kinds of PNG. Pillow does not reduce 16 bits of gray to 8, so those are not among them."""
    deep, deep_alpha = (values.astype(">u2") * 257 for values in (RGB, ALPHA))
    palette = [(b"PLTE", np.random.default_rng(0).integers(0, 256, 48, "uint8").tobytes())]
    files = {
        "RGB": png(2, 8, filtered(RGB)),
        "RGB, 16 bits": png(2, 16, filtered(deep)),
        "RGB, one transparent colour": png(2, 8, filtered(RGB), chunks=[(b"tRNS", bytes(6))]),
        "RGB, gamma": png(2, 8, filtered(RGB), chunks=[(b"gAMA", struct.pack(">I", 45455))]),
        "RGB, interlaced": png(2, 8, passes(RGB), interlaced=1),
        "RGBA": png(6, 8, filtered(ALPHA)),
        "RGBA, background": png(6, 8, filtered(ALPHA), chunks=[(b"bKGD", bytes(6))]),
        "RGBA, 16 bits, interlaced": png(6, 16, passes(deep_alpha), interlaced=1),
        "gray with alpha": png(4, 8, filtered(ALPHA[:, :, 2:])),
        "gray, interlaced": png(0, 8, passes(RED), interlaced=1),
        "palette, interlaced": png(3, 8, passes(RED % 16), chunks=palette, interlaced=1),
        "palette, transparent": png(3, 8, filtered(RED % 16), chunks=[*palette, (b"tRNS", bytes(range(0, 256, 16)))]),
        "animated": saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    }
    for bits in (1, 2, 4, 8):
        digits = (RED >> 8 - bits)[:, :, None] >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(digits.reshape(HEIGHT, -1).astype("uint8"), axis=1)
        files[f"gray, {bits} bits"] = png(0, bits, filtered(rows))
        colours = (b"PLTE", np.random.default_rng(bits).integers(0, 256, 3 * 2**bits, "uint8").tobytes())
        files[f"palette, {bits} bits"] = png(3, bits, filtered(rows), chunks=[colours])
    return files


def gifs():
    """Returns kinds of GIF. The frame of some is smaller or larger than the image."""
    colours = FRAMES[0].quantize(16)
    everything = {"save_all": True, "append_images": [FRAMES[1].quantize(8)]}
    transparent = saved(colours, "GIF", transparency=int(np.array(colours)[0, 0]))
    files = {
        "palette": saved(colours, "GIF"),
        "gray": saved(FRAMES[0].convert("L"), "GIF"),
        "two colours": saved(FRAMES[0].convert("1"), "GIF"),
        "interlaced": saved(colours, "GIF", interlace=1),
        "not interlaced": saved(colours, "GIF", interlace=0),
        "long comment": saved(colours, "GIF", comment=b"comment " * 100),
        "animated": saved(colours, "GIF", **everything),
        "animated, transparent": saved(colours, "GIF", disposal=2, transparency=3, **everything),
        "transparent": transparent,
        "transparent, with a comment": saved(colours, "GIF", transparency=3, comment=b"comment"),
        "alpha": saved(Image.fromarray(ALPHA), "GIF"),
    }
    for name, data in {"": files["palette"], ", transparent": transparent}.items():
        frame = data.index(b",", 13 + 3 * 2 ** (data[10] % 8 + 1))
        moved = data[:frame] + b"," + struct.pack("<HH", 2, 3) + data[frame + 5 :]
        files[f"frame within the image{name}"] = moved[:6] + struct.pack("<HH", WIDTH + 5, HEIGHT + 6) + moved[10:]
        files[f"frame beyond the image{name}"] = moved
    return files


def webps():
    """Returns kinds of WebP. The first frame of one animation is smaller than the image."""
    files = {}
    for name, frames in (("", FRAMES), (" with alpha", [Image.fromarray(ALPHA), Image.fromarray(ALPHA[::-1])])):
        for quality in ({"lossless": True, "exact": True}, {"quality": 80}):
            kind = f"{'lossless' if 'lossless' in quality else 'lossy'}{name}"
            files[kind] = saved(frames[0], "WEBP", **quality)
            files[f"{kind}, profile"] = saved(frames[0], "WEBP", icc_profile=b"x" * 201, **quality)
            options = {"save_all": True, "append_images": frames[1:], "icc_profile": b"x" * 201} | quality
            files[f"{kind}, animated"] = saved(frames[0], "WEBP", **options)
    smaller = bytearray(files["lossless, animated"])
    frame = smaller.index(b"ANMF")
    smaller[24], smaller[27], smaller[frame + 8], smaller[frame + 11] = WIDTH + 5, HEIGHT + 6, 2, 1
    return files | {"frame within the image": bytes(smaller)}
