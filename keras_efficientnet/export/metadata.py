"""What MediaPipe reads in a TFLite file: that pixels go in as they are, and the classes' names.

The table is written by the numbers of its schema's fields (metadata_schema.fbs of TFLite): the two writers there are
cannot be installed beside TensorFlow today.
"""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from keras_efficientnet.export import flatbuffer

LABELS = "labels.txt"
NAME = "TFLITE_METADATA"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time a ZIP can hold: the same file is written each time
IMAGE_PROPERTIES, RGB, NORMALIZATION, FEATURE_PROPERTIES, TENSOR_AXIS_LABELS = 2, 1, 1, 1, 2


def add_metadata(content: bytes, name: str, labels: Sequence[str] | None = None) -> bytes:
    """A TFLite file with metadata, and the names of the classes in a ZIP behind it, where there are any.

    Args:
        content: of the TFLite file, a classifier of pixels from 0 to 255.
        name: of the model.
        labels: names of the classes, in order.
    """
    model = flatbuffer.read(content)
    buffer = schema.BufferT()
    buffer.data = list(_describe(name, labels is not None))
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


def _describe(name, labelled) -> bytes:
    """ModelMetadata, which has the fields name 0, subgraph_metadata 3, min_parser_version 7."""
    builder = flatbuffers.Builder(1024)
    graph = _table(builder, {2: _tables(builder, [_image(builder)]), 3: _tables(builder, [_scores(builder, labelled)])})
    version = builder.CreateString("1.0.0")
    whole = _table(builder, {0: builder.CreateString(name), 3: _tables(builder, [graph]), 7: version})
    builder.Finish(whole, b"M001")
    return bytes(builder.Output())


def _image(builder) -> int:
    """TensorMetadata: name 0, content 3, process_units 4, stats 5. Mean 0 and deviation 1: the network normalises."""
    properties = _table(builder, {}, {0: RGB})
    content = _table(builder, {1: properties}, {0: IMAGE_PROPERTIES})
    options = _table(builder, {0: _floats(builder, [0.0]), 1: _floats(builder, [1.0])})
    unit = _table(builder, {1: options}, {0: NORMALIZATION})
    name, units = builder.CreateString("image"), _tables(builder, [unit])
    return _table(builder, {0: name, 3: content, 4: units, 5: _range(builder, 0.0, 255.0)})


def _scores(builder, labelled) -> int:
    """TensorMetadata: name 0, content 3, stats 5, associated_files 6."""
    content = _table(builder, {1: _table(builder, {})}, {0: FEATURE_PROPERTIES})
    fields = {0: builder.CreateString("probability"), 3: content, 5: _range(builder, 0.0, 1.0)}
    if labelled:
        file = _table(builder, {0: builder.CreateString(LABELS)}, {2: TENSOR_AXIS_LABELS})
        fields[6] = _tables(builder, [file])
    return _table(builder, fields)


def _range(builder, low, high) -> int:
    return _table(builder, {0: _floats(builder, [high]), 1: _floats(builder, [low])})


def _table(builder: Any, offsets: dict[int, int], numbers: dict[int, int] | None = None) -> int:
    """A table by its fields' numbers; what `offsets` point to is written already, as the format demands."""
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
