"""Files written by PyTorch 2.13.0, tests/golden/pth: a state_dict in both formats, and a training file.

They hold `torch.arange(12).reshape(3, 4)` with the prefix "module.", its transpose and a slice, which share a storage;
and other types. The training file has zeros as `state_dict` and ones as `state_dict_ema`.
"""

import argparse
import io
import os
import pickle
import re
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from conftest import GOLDEN
from support.reference import fill
from support.weight_files import write_state, write_zip

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights.readers.pth import open_pth
from keras_efficientnet.weights.readers.safetensors import open_safetensors
from keras_efficientnet.weights.registry import to_timm

FILES = GOLDEN / "pth"
BASE = np.arange(12, dtype="float32").reshape(3, 4)


def read_pth(path, **options):
    with open_pth(path, **options) as arrays:
        return {name: np.asarray(array) for name, array in arrays.items()}


def read_safetensors(path):
    with open_safetensors(path) as arrays:
        return {name: np.asarray(array) for name, array in arrays.items()}


class Payload:
    """Runs code when Python's own pickle reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("name", ["state.pth", "legacy.pth"])
def test_tensors_are_read_as_they_were_written(name):
    arrays = {key.removeprefix("module."): array for key, array in read_pth(FILES / name).items()}
    assert list(arrays) == ["a.weight", "transposed", "slice", "half", "brain", "count"]
    np.testing.assert_array_equal(arrays["a.weight"], BASE)
    np.testing.assert_array_equal(arrays["transposed"], BASE.T)
    np.testing.assert_array_equal(arrays["slice"], [[5, 6], [9, 10]])
    np.testing.assert_array_equal(arrays["half"], [0.5, -2.0])
    np.testing.assert_array_equal(arrays["brain"].astype("float32"), [1.5, -3.0])
    assert arrays["count"] == 7 and arrays["count"].shape == ()
    assert [x.dtype.name for x in arrays.values()] == ["float32"] * 3 + ["float16", "bfloat16", "int64"]


def test_the_averaged_weights_of_a_training_file_are_preferred():
    arrays = read_pth(FILES / "training.pth")
    assert list(arrays) == ["w"]
    np.testing.assert_array_equal(arrays["w"], [1.0, 1.0])
    np.testing.assert_array_equal(read_pth(FILES / "training.pth", average=False)["w"], [0.0, 0.0])


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, format):
    proof, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = pickle.dumps({"weight": Payload(proof)}, protocol=2)
    write_zip(path, content) if format == "zip" else path.write_bytes(content)
    with pytest.raises(ValueError, match="asks for builtins.exec|asks for __builtin__.exec"):
        read_pth(path)
    assert not proof.exists()
    pickle.loads(content)  # the payload is a real one
    assert proof.exists()


# a tensor that claims to be larger than its storage would read other memory
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (4, (1,), (1,)), (0, (2, 2), (3, 1)), (3, (2,), (-1,)), (-1, (1,), (1,))],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path, offset, shape, strides):
    class Tensor:
        def __reduce__(self):
            return (pickle.loads, (STORAGE, offset, shape, strides, False, {}))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", pickle.dumps, "0", "cpu", 4) if value is STORAGE else None

    STORAGE = object()
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"weight": Tensor()})
    content = re.sub(rb"c\w+\nloads\n", b"ctorch._utils\n_rebuild_tensor_v2\n", stream.getvalue())
    content = re.sub(rb"c\w+\ndumps\n", b"ctorch\nFloatStorage\n", content)
    path = write_zip(tmp_path / "large.pth", content, {"0": np.arange(4, dtype="float32").tobytes()})
    with pytest.raises(ValueError, match="a tensor reaches beyond its numbers"):
        read_pth(path)


def read_made(tmp_path, content, **storages):
    return read_pth(write_zip(tmp_path / "made.pth", content, storages))


def test_a_tensor_without_a_storage_is_refused(tmp_path):
    """A dictionary instead could make NumPy read numbers of any width from other memory."""
    fake = b"}(X\x03\x00\x00\x00keyX\x01\x00\x00\x000u"  # {"key": "0"}
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + fake + b"K\x00K\x01\x85K\x01\x85\x89}tR"
    content = b"\x80\x02}(X\x01\x00\x00\x00w" + tensor + b"u."
    with pytest.raises(ValueError, match="it has a tensor without numbers"):
        read_made(tmp_path, content, **{"0": b"\x00" * 4})


def test_a_small_file_cannot_take_all_time_or_memory(tmp_path):
    doubled = b"\x80\x02}()" + b"q\x00h\x00\x86" * 60  # a tuple of another twice, sixty deep: 2**60 hashes
    with pytest.raises(ValueError, match="its keys are not names"):
        read_made(tmp_path, doubled + b"K\x00u.")
    with pytest.raises(ValueError, match="it holds 0 objects"):
        read_made(tmp_path, b"\x80\x02}r\x00\x00\x00\x04" + b".")  # position 67,108,864 of the memo
    with pytest.raises(ValueError, match="not a complete .pth file"):
        read_made(tmp_path, b"\x80\x02}2.")  # DUP, which no pickler writes
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10**6))
    with pytest.raises(ValueError, match="it is compressed"):
        read_pth(path)


def test_a_file_cannot_repeat_expensive_operations(tmp_path):
    """A tuple of a million ones, by its position in the memo; without a limit each case took at least 20 seconds."""
    million = b"\x80\x02(" + b"K\x01" * 1_000_000 + b"tq\x000"
    call = b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00R0" * 20_000
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    tensor += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00h\x00h\x00\x89}tR"
    large = b"\x80\x02\x8a\xff" + b"\xff" * 254 + b"\x7fq\x020(" + b"h\x02" * 100_000 + b"tq\x000"
    same = b"".join(b"\x8a\x0a" + (number * (2**61 - 1)).to_bytes(10, "little") + b"N" for number in range(60_000))
    start = time.process_time()
    for content, message in {
        million + call + b"}.": "it calls a function with more than 8 arguments",
        million + b"h\x00Q.": "it refers to an object that is not a storage",
        million + b"}(K\x00" + tensor + b"u.": "it has a tensor with an invalid shape",
        large + b"}(K\x00" + tensor + b"u.": "it has a tensor with an invalid shape",
        b"\x80\x02}(" + same + b"u.": "its keys are not names",  # numbers whose hash is 0
    }.items():
        with pytest.raises(ValueError, match=message):
            read_made(tmp_path, content, **{"0": b"\x00" * 16})
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"}}\x93.", "it asks for a function whose name is not text"),
        (b"}K\x01a.", "it appends to an object that is not a list"),
        (b"\x86.", "it takes more objects than it made"),
        (b"2.", "it has the operation DUP, which PyTorch never writes"),
    ],
)
def test_operations_that_pytorch_never_writes_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_made(tmp_path, b"\x80\x02" + content)


@pytest.mark.parametrize("content", [b"\x80\x02(i__main__\nX\n.", b"\x80\x02X\xff\xff\xff\xff.", b"\x80"])
def test_the_error_for_a_damaged_pickle_has_a_reason(tmp_path, content):
    with pytest.raises(ValueError, match=r"made.pth is not a complete .pth file of tensors: .*[A-Za-z]{5}"):
        read_made(tmp_path, content)


def test_an_error_is_one_short_line_whatever_a_file_contains(tmp_path):
    name = b"X\x10\x27\x00\x00" + b"evil\n" * 2000
    with pytest.raises(ValueError, match="it asks for evil evil ") as caught:
        read_made(tmp_path, b"\x80\x02" + name + name + b"\x93.")
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_the_options_of_a_training_program_are_ignored(tmp_path):
    """timm and torchvision save `args`, an argparse.Namespace, with the weights of a training."""
    options = pickle.dumps(argparse.Namespace(lr=0.1), protocol=2)[2:-1]
    state = write_state(tmp_path / "state.pth", {"w": BASE})
    with zipfile.ZipFile(state) as archive:
        weights, numbers = archive.read("archive/data.pkl"), archive.read("archive/data/0")
    content = b"\x80\x02}(X\x04\x00\x00\x00args" + options + b"X\x05\x00\x00\x00model" + weights[2:-1] + b"u."
    np.testing.assert_array_equal(read_made(tmp_path, content, **{"0": numbers})["w"], BASE)


def test_the_only_dictionary_of_tensors_is_read_whatever_its_name(tmp_path):
    state = write_state(tmp_path / "state.pth", {"w": BASE})
    with zipfile.ZipFile(state) as archive:
        weights, numbers = archive.read("archive/data.pkl"), archive.read("archive/data/0")
    content = b"\x80\x02}(X\x05\x00\x00\x00epochK\x03X\x10\x00\x00\x00model_state_dict" + weights[2:-1] + b"u."
    np.testing.assert_array_equal(read_made(tmp_path, content, **{"0": numbers})["w"], BASE)


def test_a_view_of_another_storage_is_refused(tmp_path):
    """In the old format a storage can be a part of another; torch.load reads only this part."""
    kind = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04"
    with pytest.raises(ValueError, match="a view of another storage"):
        read_made(tmp_path, b"\x80\x02" + kind + b"X\x01\x00\x00\x001K\x02K\x02\x87tQ.", **{"0": b"\x00" * 16})


@pytest.mark.parametrize("name", ["b0.safetensors", "b0.pth", "best.pth.tar"])
def test_a_builder_loads_a_file_of_timm(tiny, tmp_path, name):
    source = fill(models.make_model(tiny, classes=10))
    write = write_state if ".pth" in name else lambda path, arrays: safetensors.numpy.save_file(arrays, path)
    write(tmp_path / name, to_timm(source))
    loaded = models.make_model(tiny, classes=10, weights=tmp_path / name)
    for ours, theirs in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_file_of_another_network_is_refused(tiny):
    with pytest.raises(ValueError, match="state.pth does not match .* Missing: .*bn1.bias.* Unused: .*a.weight"):
        load_weights(models.make_model(tiny, classes=10), FILES / "state.pth")


@pytest.mark.parametrize("name", ["state.pth", "legacy.pth", "training.pth"])
def test_a_file_truncated_anywhere_is_refused(tmp_path, name):
    whole = (FILES / name).read_bytes()
    path = tmp_path / name
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{name} is not a complete .pth file of tensors"):
            read_pth(path)


def test_a_changed_number_in_a_zip_is_detected(tmp_path):
    with zipfile.ZipFile(FILES / "state.pth") as archive:
        entry = archive.getinfo("state/data/0")
    content = bytearray((FILES / "state.pth").read_bytes())
    place = content.find(BASE.tobytes(), entry.header_offset)
    content[place] ^= 1
    (tmp_path / "state.pth").write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read_pth(tmp_path / "state.pth")


def test_the_counter_of_an_averaged_model_is_ignored(tiny, tmp_path):
    """torchvision saves PyTorch's AveragedModel as `model_ema`, which also has "n_averaged"."""
    source = fill(models.make_model(tiny, classes=10))
    arrays = {"n_averaged": np.array(3)} | {f"module.{name}": array for name, array in to_timm(source).items()}
    loaded = models.make_model(tiny, classes=10, weights=write_state(tmp_path / "b0.pth", arrays))
    for ours, theirs in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_pipe_is_refused(tiny, tmp_path):
    """Opening a pipe never returns."""
    os.mkfifo(tmp_path / "b0.pth")
    with pytest.raises(FileNotFoundError, match="There is no file .*b0.pth"):
        load_weights(models.make_model(tiny, classes=10), tmp_path / "b0.pth")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}, {"state_dict": {"a": "b"}}])
def test_anything_but_a_dictionary_of_tensors_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="it holds"):
        read_pth(write_zip(tmp_path / "other.pth", pickle.dumps(content, protocol=2)))


@pytest.mark.parametrize("kind", ["float64", "float16", "int64", "bool"])
def test_safetensors_are_read_as_they_were_written(tmp_path, kind):
    arrays = {"a": BASE.astype(kind), "scalar": np.array(3, kind), "empty": np.zeros((0, 2), kind)}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_safetensors_are_read(tmp_path):
    """NumPy lacks bfloat16, the upper half of a float32. The format: github.com/huggingface/safetensors."""
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    numbers = np.array([1.5, -3.0], "float32").view("uint16")[1::2].tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x.safetensors")["w"].astype("float32"), [1.5, -3.0])


def test_safetensors_of_a_type_that_numpy_lacks_are_refused(tmp_path):
    header = b'{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="NumPy has no numbers of type F8_E4M3"):
        read_safetensors(tmp_path / "x.safetensors")


def test_truncated_or_invalid_safetensors_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": BASE, "b": BASE.astype("float16")}, path)
    np.testing.assert_array_equal(read_safetensors(path)["a"], BASE)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:40], b"", b"\x80\x02}", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.safetensors is not a complete .safetensors file"):
            read_safetensors(path)
