"""What exporters learn from a run or a name: class names, resizing; and the script."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from support.exports import LABELS, RandomNoise, make_small
from support.images import jpeg, random_images
from support.scripts import run

from keras_efficientnet import export
from keras_efficientnet.models import make_model
from keras_efficientnet.preprocessing import image_for_evaluation


@pytest.fixture(scope="module")
def small():
    return make_small()


@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        ("efficientnet-lite0", "bilinear"),
        ("efficientnetedgetpus", "bilinear"),
        ("efficientnetcondconvb0_4e", "bicubic"),
    ],
)
def test_the_name_of_a_network_determines_the_resizing(name, interpolation):
    inner = make_small(name=name)
    for model in (inner, keras.Sequential([keras.Input((32, 32, 3)), inner], name="mine")):
        found = export.find_reader(model)(jpeg())
        np.testing.assert_array_equal(found, image_for_evaluation(jpeg(), 32, interpolation=interpolation))


def test_the_options_of_a_run_determine_the_resizing(small, tmp_path):
    options = {"crop_fraction": 1.0, "interpolation": "bilinear", "half_pixel_centers": True}
    (tmp_path / "config.json").write_text(json.dumps(options | {"model_name": "efficientnet-b0", "recipe": "official"}))
    expected = image_for_evaluation(jpeg(), 32, **options)
    for path in (tmp_path, tmp_path / "model.keras"):
        np.testing.assert_array_equal(export.find_reader(small, path)(jpeg()), expected)
    assert np.abs(export.find_reader(small, tmp_path / "other.keras")(jpeg()) - expected).max() > 1


def test_there_is_no_reader_if_the_resizing_is_unknown(tiny, small, tmp_path):
    for shape in ((32, 48, 3), (32, 32, 1), (None, None, 3)):
        assert export.find_reader(make_small(shape=shape)) is None
    assert export.find_reader(make_model(tiny, classes=10, include_preprocessing=False)) is None
    with pytest.raises(
        ValueError, match=r"`read` must give pixels, float32 \(32, 32, 3\). It gives float32 \(40, 40, 3"
    ):
        export.to_saved_model(small, tmp_path / "new", read=lambda data: image_for_evaluation(data, 40))
    assert not [*tmp_path.iterdir()]


def test_the_script_uses_labels_and_resizing_of_the_run(small, tmp_path):
    small.save(tmp_path / "model.keras")
    digits = [str(number) for number in range(10)]  # the classes of the run's data, the sample
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in digits))
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "efficientnet-lite0", "recipe": "official"}))
    code, _, errors = run(ROOT / "export/to_saved_model.py", "--model=.", "--output=new", cwd=tmp_path)
    assert (code, errors) == (0, [])
    assert (tmp_path / "new/assets/labels.txt").read_text().splitlines() == digits
    outputs = tf.saved_model.load(os.fspath(tmp_path / "new")).signatures["image_bytes"](tf.constant([jpeg()]))
    expected = np.asarray(small(image_for_evaluation(jpeg(), 32, interpolation="bilinear")[tf.newaxis]))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    assert outputs["top_5_labels"][0, 0] == digits[expected.argmax()].encode()


@pytest.mark.slow
def test_the_script_writes_a_feature_vector(small, tmp_path):
    small.save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    options = ("--model=.", "--output=new", "--feature_vector")
    code, _, errors = run(ROOT / "export/to_saved_model.py", *options, cwd=tmp_path)
    assert (code, errors) == (0, [])
    assert export.load_saved_model(tmp_path / "new")(random_images(2, 40, 56)).shape == (2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--model=custom.keras",
            "custom.keras is not a complete .keras file of a known network: Could not locate class 'Ran",
        ),
        ("--model=small.keras --labels=names.txt", "`labels` must name the 10 classes of small. Received: 3 names."),
        ("--model=small.keras --labels=absent.txt", "There is no file 'absent.txt' with the names of the classes."),
    ],
)
def test_a_mistake_of_the_user_is_one_line(small, tmp_path, options, message):
    small.save(tmp_path / "small.keras")
    make_small(layer=RandomNoise()).save(tmp_path / "custom.keras")
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    code, lines, errors = run(ROOT / "export/to_saved_model.py", *options.split(), "--output=new", cwd=tmp_path)
    assert (code, lines, len(errors)) == (1, [], 1), errors
    assert errors[0].startswith(f"to_saved_model.py: {message}")
    assert not (tmp_path / "new").exists()


def test_a_byte_order_mark_is_no_part_of_a_class_name(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert export.read_labels(tmp_path / "labels.txt") == ["cat", "dog"]


def test_an_option_that_a_format_does_not_have_is_an_error(small, tmp_path):
    small.save(tmp_path / "small.keras")
    with pytest.raises(ValueError, match="ONNX files have no option `quantize`. Received: quantize='int8'. Choose"):
        export.export_file(tmp_path / "small.keras", tmp_path / "new", "onnx", options=export.Options(quantize="int8"))
