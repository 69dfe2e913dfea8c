"""The report on an exported file against NumPy's numbers, and files that agree too little."""

import functools
import json
import re

import numpy as np
import pytest
from support.exports import WRITERS, make_small
from support.images import random_images

from keras_efficientnet import export
from keras_efficientnet.export.images import Images
from keras_efficientnet.export.measurement import format_report, write_measured
from keras_efficientnet.models import make_model


@pytest.fixture(scope="module")
def small():
    return make_small()


@pytest.fixture(scope="module")
def images(small):
    """Of each the class that the model names, but for every fourth, whose right class is the next."""
    pixels = random_images(40)
    choices = np.asarray(small(pixels)).argmax(axis=1)
    return Images(pixels, (choices + (np.arange(40) % 4 == 0)) % 10, "40 random images")


def test_every_exporter_is_in_the_table_of_formats():
    assert set(WRITERS) == set(export.FORMATS)


@pytest.mark.parametrize("kind", ["tflite", "onnx", "openvino", pytest.param("saved_model", marks=pytest.mark.slow)])
def test_a_float_file_is_reported_as_good_as_its_model(small, images, tmp_path, kind):
    report = write_measured(functools.partial(WRITERS[kind], small), small, tmp_path / "new", kind, images)
    assert report.agreement == 1.0
    assert report.accuracy == report.model_accuracy == 0.75
    assert 0 <= report.mean_difference <= report.max_difference < 1e-5
    files = [path for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")) if path.is_file()]
    assert report.bytes == sum(path.stat().st_size for path in files) > 0
    assert set(report.milliseconds) <= {1, 2} and min(report.milliseconds.values()) > 0
    assert report.stored.startswith("float32" if kind != "tflite" else "weights ")
    written = json.loads((tmp_path / "new.report.json").read_text())
    assert written["agreement"] == 1.0 and written["images"] == "40 random images"
    assert (tmp_path / "new.report.md").read_text() == format_report(report) + "\n"
    assert "| 100.00 %" in format_report(report) and "75.00 %; of the model 75.00 %" in format_report(report)


def shift(model, classes):
    """The same network whose classifier names every class `classes` further."""
    other = make_small()
    other.set_weights(
        [np.roll(array, classes, axis=-1) if array.shape[-1] == 10 else array for array in model.get_weights()]
    )
    return other


def test_a_file_with_other_predictions_is_kept_aside_with_its_report(small, images, tmp_path):
    path = tmp_path / "new.tflite"
    path.write_bytes(b"old")
    write = functools.partial(export.to_tflite, shift(small, 1))
    message = r"new.tflite predicts .* 0.00 % of 40 .* 99 % .*aside: .*rejected"
    with pytest.raises(export.RejectedFileError, match=message):
        write_measured(write, small, path, "tflite", images, overwrite=True)
    assert path.read_bytes() == b"old"
    assert {file.name for file in tmp_path.iterdir()} == {
        "new.tflite",
        "new.tflite.rejected",
        "new.tflite.report.json",
        "new.tflite.report.md",
    }
    np.testing.assert_allclose(
        export.load_tflite(tmp_path / "new.tflite.rejected")(images.pixels), shift(small, 1)(images.pixels), atol=1e-5
    )
    assert json.loads((tmp_path / "new.tflite.report.json").read_text())["agreement"] == 0


def test_the_required_agreement_can_be_set(small, images, tmp_path):
    write = functools.partial(export.to_tflite, shift(small, 1))
    report = write_measured(write, small, tmp_path / "new", "tflite", images, least_agreement=0.0)
    assert report.agreement == 0 and (tmp_path / "new").is_file()


def test_a_failure_of_the_exporter_leaves_no_report(small, images, tmp_path):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_measured(fail, small, tmp_path / "new", "tflite", images)
    assert not [*tmp_path.iterdir()]


def test_images_without_true_classes_give_no_accuracy(small, images, tmp_path):
    write = functools.partial(export.to_tflite, small)
    report = write_measured(write, small, tmp_path / "new", "tflite", images._replace(labels=None))
    assert report.accuracy is report.model_accuracy is None
    assert "the true classes are unknown" in format_report(report)


def test_the_report_has_the_bytes_that_were_quantized(tiny_b0, tmp_path):
    """Of the tiny network's parameters most are in kernels, which dynamic range quantisation stores in a byte each."""
    model = make_model(tiny_b0, classes=10)
    images = Images(pixels=random_images(40), labels=None, origin="some")
    write = functools.partial(export.to_tflite, model, quantize="dynamic")
    report = write_measured(write, model, tmp_path / "new", "tflite", images, least_agreement=0.5)
    size = float(re.search(r"([\d.]+) MB int8", report.stored)[1]) * 1e6
    kernels = sum(layer.kernel.shape.num_elements() for layer in model.layers if hasattr(layer, "kernel"))
    assert 0.7 * kernels < size <= 1.01 * kernels


@pytest.mark.parametrize("share", [float("nan"), 1.1, -0.1])
def test_a_required_agreement_that_is_no_share_is_refused(small, images, tmp_path, share):
    write = functools.partial(export.to_tflite, small)
    with pytest.raises(ValueError, match="must be a share, from 0 to 1"):
        write_measured(write, small, tmp_path / "new", "tflite", images, least_agreement=share)
    assert not [*tmp_path.iterdir()]
