"""ONNX and OpenVINO files in their runtimes, against the model in Keras; failures, which leave no files."""

import json
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
from conftest import ROOT
from support.exports import LABELS, content, enliven, load, make_small
from support.family import EXPORTED, make, predict, spread
from support.images import random_images
from support.reference import fill
from support.scripts import run, run_help

from keras_efficientnet import export
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.models import make_model

WRITERS = {"onnx": export.to_onnx, "openvino": export.to_openvino}

# What a user does who has neither this package nor TensorFlow: `sys.modules[...] = None` makes an import fail.
ELSEWHERE = {
    "onnx": """
import json, sys
sys.modules["keras_efficientnet"] = sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
images = np.load(sys.argv[2])
for n in (1, 3):
    np.save(f"{n}.npy", session.run(["probabilities"], {"inputs": images[:n]})[0])
print(json.dumps(session.get_modelmeta().custom_metadata_map["labels"].split("\\n")))
""",
    "openvino": """
import json, sys
sys.modules["keras_efficientnet"] = sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy as np, openvino
network = openvino.Core().read_model(sys.argv[1] + "/model.xml")
compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
images = np.load(sys.argv[2])
for n in (1, 3):
    np.save(f"{n}.npy", compiled({"inputs": images[:n]})["probabilities"])
print(json.dumps(network.get_rt_info(["model_info", "labels"]).astype(str).split(" ")))
""",
}


@pytest.fixture(scope="module")
def model(tiny):
    keras.utils.set_random_seed(1)
    return enliven(make_model(tiny, classes=10))


@pytest.fixture(scope="module")
def small():
    return make_small()


@pytest.fixture(scope="module", params=WRITERS)
def exported(request, model, tmp_path_factory):
    """(kind, path) of the tiny network, for any number of images, with labels."""
    path = tmp_path_factory.mktemp("export") / "exported"
    WRITERS[request.param](model, path, labels=LABELS)
    return request.param, path


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_gives_the_probabilities_of_the_model(model, exported, count):
    kind, path = exported
    images = random_images(count)
    probabilities = export.FORMATS[kind].load(path, threads=1)(images)
    assert (type(probabilities), probabilities.dtype) == (np.ndarray, np.float32)
    np.testing.assert_allclose(probabilities, model(images, training=False), atol=1e-4)


def test_a_file_runs_without_this_package_and_tensorflow(model, exported, tmp_path):
    kind, path = exported
    np.save(tmp_path / "images.npy", random_images(3))
    command = [sys.executable, "-I", "-c", ELSEWHERE[kind], str(path), "images.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for count in (1, 3):
        expected = model(random_images(3)[:count], training=False)
        np.testing.assert_allclose(np.load(tmp_path / f"{count}.npy"), expected, atol=1e-4)
    expected = LABELS if kind == "onnx" else [label.replace(" ", "_") for label in LABELS]  # as its Model API splits
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-condconv-b0-4e",
        pytest.param("efficientnet-edgetpu-S", marks=pytest.mark.slow),
        "efficientnet-b0-torch",
    ],
)
def test_other_kinds_of_network_give_their_probabilities_too(tmp_path, kind, name):
    depth = 0.5 if "condconv" in name else 0.25  # blocks with experts and with a skip
    model = enliven(make_model(VARIANTS[name]._replace(width=0.25, depth=depth, resolution=32), classes=10))
    WRITERS[kind](model, tmp_path / "new")
    for count in (1, 3):
        images = random_images(count)
        np.testing.assert_allclose(load(kind, tmp_path / "new")(images), model(images, training=False), atol=1e-4)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_network_gives_its_probabilities(tmp_path, name):
    model = spread(fill(make(name, input_shape=(64, 64, 3))))
    for kind, write in WRITERS.items():
        write(model, tmp_path / kind)
        np.testing.assert_allclose(predict(model), predict_file(kind, tmp_path / kind), atol=1e-4)


def predict_file(kind, path):
    classify = load(kind, path)
    return predict(lambda images, training: classify(images))


def test_an_onnx_file_is_valid_and_has_names(model, tmp_path):
    export.to_onnx(model, tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert describe(proto.graph.input) == [("inputs", onnx.TensorProto.FLOAT, ["batch", 32, 32, 3])]
    assert describe(proto.graph.output) == [("probabilities", onnx.TensorProto.FLOAT, ["batch", 10])]
    assert {node.domain for node in proto.graph.node} == {""}  # ONNX's own operations, no runtime's


def describe(values):
    tensors = [(value.name, value.type.tensor_type) for value in values]
    return [
        (name, tensor.elem_type, [size.dim_param or size.dim_value for size in tensor.shape.dim])
        for name, tensor in tensors
    ]


def test_openvino_has_names_and_full_precision_unless_asked(model, tmp_path):
    export.to_openvino(model, tmp_path / "full")
    assert {file.name for file in (tmp_path / "full").iterdir()} == {"model.xml", "model.bin"}
    network = openvino.Core().read_model(tmp_path / "full" / "model.xml")
    assert (network.inputs[0].get_names(), network.outputs[0].get_names()) == ({"inputs"}, {"probabilities"})
    assert str(network.inputs[0].partial_shape) == "[?,32,32,3]"
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    full = (tmp_path / "full/model.bin").stat().st_size
    assert full > sum(kernel.value.numpy().nbytes for kernel in kernels)


def test_half_precision_halves_an_openvino_network(small, tmp_path):
    for float16 in (False, True):
        export.to_openvino(small, tmp_path / str(float16), float16=float16)
    full, half = ((tmp_path / name / "model.bin").stat().st_size for name in ("False", "True"))
    assert half < 0.6 * full


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_for_one_image_can_be_called_with_any_number_of_images(small, tmp_path, kind):
    WRITERS[kind](small, tmp_path / "one", dynamic_batch=False)
    images = random_images(3)
    np.testing.assert_allclose(load(kind, tmp_path / "one")(images), small(images, training=False), atol=1e-4)
    if kind == "onnx":
        [(_, _, shape)] = describe(onnx.load(tmp_path / "one").graph.input)
        assert shape == [1, 32, 32, 3]
    else:
        network = openvino.Core().read_model(tmp_path / "one" / "model.xml")
        assert str(network.inputs[0].partial_shape) == "[1,32,32,3]"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_free_size_takes_images_of_any_size(tmp_path, kind):
    model = make_small(shape=(None, None, 3))
    WRITERS[kind](model, tmp_path / "free")
    classify = load(kind, tmp_path / "free")
    for images in (random_images(2, 40, 72), random_images(1, 96, 64)):
        np.testing.assert_allclose(classify(images), model(images, training=False), atol=1e-4)


@pytest.mark.parametrize("kind", WRITERS)
def test_exporting_does_not_change_the_model(tmp_path, kind):
    model = make_small()
    before = model.get_weights()
    WRITERS[kind](model, tmp_path / "new")
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("kind", WRITERS)
def test_models_that_cannot_be_exported_are_refused(tiny, tmp_path, set_policy, kind):
    with pytest.raises(ValueError, match="include_top"):
        WRITERS[kind](make_model(tiny, include_top=False, input_shape=(32, 32, 3)), tmp_path / "new")
    with pytest.raises(ValueError, match="10 classes"):
        WRITERS[kind](make_small(), tmp_path / "new", labels=["one"])
    set_policy("mixed_bfloat16")
    with pytest.raises(ValueError, match="float32"):
        WRITERS[kind](make_small(), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


def test_openvino_needs_a_folder_instead_of_a_file(small, tmp_path):
    with pytest.raises(ValueError, match="two files: give the folder"):
        export.to_openvino(small, tmp_path / "new.xml")
    assert not [*tmp_path.iterdir()]


class DifferentInGraphs(keras.layers.Layer):
    """Gives something else where it is exported."""

    def call(self, inputs):
        return inputs if tf.executing_eagerly() else -inputs


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_with_other_probabilities_is_removed(tmp_path, kind):
    with pytest.raises(RuntimeError, match=r"differ by up to 0\.\d+"):
        WRITERS[kind](make_small(layer=DifferentInGraphs()), tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_failure_keeps_the_old_file_and_leaves_no_other_files(small, monkeypatch, tmp_path, kind, error):
    WRITERS[kind](small, tmp_path / "old")
    before = content(tmp_path)

    def fail(*_):
        raise error

    monkeypatch.setattr(getattr(export, kind), "check_exact", fail)
    with pytest.raises(error):
        WRITERS[kind](small, tmp_path / "old", overwrite=True)
    assert content(tmp_path) == before
    assert [*tmp_path.iterdir()] == [tmp_path / "old"]


def test_a_full_disk_is_an_os_error(small, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space left on device"):
        export.to_openvino(small, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", WRITERS)
def test_an_existing_export_is_replaced_only_with_overwrite(small, tmp_path, kind):
    path = tmp_path / "old"
    WRITERS[kind](make_small(layer=keras.layers.Rescaling(2.0)), path)
    before = content(path)
    with pytest.raises(FileExistsError, match="--overwrite"):
        WRITERS[kind](small, path)
    assert content(path) == before
    WRITERS[kind](small, path, overwrite=True)
    assert {*content(tmp_path)} == {*before}
    np.testing.assert_allclose(load(kind, path)(random_images(3)), small(random_images(3)), atol=1e-4)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_with_other_files_is_never_replaced(small, tmp_path, kind):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "model.xml").write_text("chapter one")
    (tmp_path / "thesis" / "chapter").write_text("two")
    with pytest.raises(FileExistsError, match="holds files that this export did not write"):
        WRITERS[kind](small, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "two"


@pytest.mark.parametrize(("kind", "package"), [("onnx", "tf2onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(small, monkeypatch, tmp_path, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs the package {package}: pip install "keras_efficientnet\[export\]"'):
        WRITERS[kind](small, tmp_path / "new")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_example_in_the_help_runs_as_printed(small, tmp_path, kind):
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "runs/efficientnet-b0").mkdir(parents=True)
    small.save(tmp_path / "runs/efficientnet-b0/model.keras")
    examples = [line for line in run_help("export/to_onnx.py") if line.startswith("python export/")]
    example = examples[[*WRITERS].index(kind)]
    code, lines, errors = run(*shlex.split(example)[1:], cwd=tmp_path)
    assert (code, errors) == (0, [])
    output = example.rpartition("--output=")[2]
    assert lines[0].startswith(f"| file                        | {output.rpartition('/')[2]}, ")
    assert any(re.match(r"\| agreement with the model    \| 100.00 % +\|", line) for line in lines)
    probabilities = load(kind, tmp_path / output)(random_images(3))
    np.testing.assert_allclose(probabilities, small(random_images(3)), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--format=pdf --model=a.keras --output=new", "flag --format=pdf: value should be one of <onnx|openvino>"),
        ("--model=absent.keras --output=new", "There is no file 'absent.keras'"),
        ("--format=openvino --model=small.keras --output=b0.xml", "OpenVINO's network is two files: give the folder"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(small, tmp_path, options, message):
    small.save(tmp_path / "small.keras")
    code, lines, errors = run(ROOT / "export/to_onnx.py", *options.split(), cwd=tmp_path)
    assert (code, lines, len(errors)) == (1, [], 1), errors
    assert errors[0].startswith(f"to_onnx.py: {message}")
    assert [file.name for file in tmp_path.iterdir()] == ["small.keras"]
