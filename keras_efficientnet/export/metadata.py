"""Adds the metadata to a TFLite file that MediaPipe reads: the range of the pixels and the class names.

The table is written by the field numbers of its schema (metadata_schema.fbs of TFLite): neither of the two published
writers can be installed together with TensorFlow.
"""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_efficientnet.export import flatbuffer

LABELS = "labels.txt"  # name of the file in the metadata, fixed by the format
NAME = "TFLITE_METADATA"
OUTPUT = {"probabilities": "probability", "features": "feature", "outputs": "output"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a ZIP can store: makes the file reproducible
IMAGE_PROPERTIES, RGB, NORMALIZATION, FEATURE_PROPERTIES, TENSOR_AXIS_LABELS = 2, 1, 1, 1, 2


def add_metadata(
    content: bytes, name: str, labels: Sequence[str] | None = None, outputs: str = "probabilities"
) -> bytes:
    """Returns a TFLite file with metadata, followed by a ZIP with the class names if there are any.

    Args:
        content: content of a TFLite file that takes pixels from 0 to 255.
        name: name of the model.
        labels: class names in order.
        outputs: what the model gives, see `agreement.name_outputs`.
    """
    model = flatbuffer.read(content)
    buffer = schema.BufferT()
    buffer.data = list(_describe(name, labels is not None, outputs))
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    stream = io.BytesIO()
    stream.write(flatbuffer.write(model))
    if labels is not None:
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(LABELS, EPOCH), "".join(f"{label}\n" for label in labels))
    return stream.getvalue()


def _describe(name, labelled, outputs) -> bytes:
    """Returns the table ModelMetadata: fields name 0, subgraph_metadata 3, min_parser_version 7."""
    builder = flatbuffers.Builder(1024)
    graph = _table(
        builder, {2: _tables(builder, [_image(builder)]), 3: _tables(builder, [_scores(builder, labelled, outputs)])}
    )
    version = builder.CreateString("1.0.0")
    root = _table(builder, {0: builder.CreateString(name), 3: _tables(builder, [graph]), 7: version})
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


def _image(builder) -> int:
    """Writes TensorMetadata: name 0, content 3, process_units 4, stats 5. Mean 0, deviation 1: no normalization."""
    properties = _table(builder, {}, {0: RGB})
    content = _table(builder, {1: properties}, {0: IMAGE_PROPERTIES})
    options = _table(builder, {0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
    unit = _table(builder, {1: options}, {0: NORMALIZATION})
    name, units = builder.CreateString("image"), _tables(builder, [unit])
    return _table(builder, {0: name, 3: content, 4: units, 5: _range(builder, 0.0, 255.0)})


def _scores(builder, labelled, outputs) -> int:
    """Writes TensorMetadata: name 0, content 3, stats 5, associated_files 6."""
    content = _table(builder, {1: _table(builder, {})}, {0: FEATURE_PROPERTIES})
    fields = {0: builder.CreateString(OUTPUT[outputs]), 3: content}
    if outputs == "probabilities":
        fields[5] = _range(builder, 0.0, 1.0)
    if labelled:
        file = _table(builder, {0: builder.CreateString(LABELS)}, {2: TENSOR_AXIS_LABELS})
        fields[6] = _tables(builder, [file])
    return _table(builder, fields)


def _range(builder, low, high) -> int:
    return _table(builder, {0: _floats(builder, [high]), 1: _floats(builder, [low])})


def _table(builder: Any, offsets: dict[int, int], numbers: dict[int, int] | None = None) -> int:
    """Writes a table by its field numbers. The format requires that the targets of `offsets` are written before."""
    numbers = numbers or {}
    builder.StartObject(1 + max([*offsets, *numbers], default=0))
    for field, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    for field, number in numbers.items():
        builder.PrependUint8Slot(field, number, 0)
    return builder.EndObject()


def _tables(builder, offsets) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, values) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()
