"""Models that give no probabilities are exported as what they are, and their values are compared."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from support.exports import LABELS, WRITERS, load, make_small
from support.images import random_images, write_folder
from support.scripts import run

from keras_efficientnet import export
from keras_efficientnet.export.agreement import check_roughly, name_outputs
from keras_efficientnet.export.images import Images
from keras_efficientnet.export.measurement import format_report, write_measured

IMAGES = random_images(12)


def end(*layers):
    """The small network up to its pooling, with other layers behind it."""
    model = make_small()
    output = model.layers[-2].output
    for layer in layers:
        output = layer(output)
    return keras.Model(model.input, output, name="small")


def make_embedding():
    return end(keras.layers.Dense(6), keras.layers.UnitNormalization())


def make_nested():
    return keras.Sequential([keras.Input((32, 32, 3)), make_embedding()], name="small")


MODELS = {
    "softmax": (make_small, "probabilities"),
    "sigmoid": (lambda: make_small("sigmoid"), "probabilities"),
    "softmax layer": (lambda: end(keras.layers.Dense(3), keras.layers.Softmax()), "probabilities"),
    "softmax operation": (lambda: end(keras.layers.Dense(3), keras.ops.softmax), "probabilities"),
    "softmax inside": (lambda: keras.Sequential([keras.Input((32, 32, 3)), make_small()]), "probabilities"),
    "one sigmoid": (lambda: make_small("sigmoid", classes=1), "probabilities"),
    "logits": (lambda: make_small(None), "outputs"),
    "embedding": (make_embedding, "outputs"),
    "embedding inside": (make_nested, "outputs"),
    "regression": (lambda: make_small(None, classes=1), "outputs"),
    "scaled sigmoid": (lambda: end(keras.layers.Dense(3, "sigmoid"), lambda x: keras.ops.multiply(x, 10)), "outputs"),
    "pooling": (end, "features"),
    "pooling and linear": (lambda: end(keras.layers.Dense(3, "relu")), "outputs"),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_have_the_name_of_what_they_are(name):
    make, expected = MODELS[name]
    assert name_outputs(make()) == expected


@pytest.mark.parametrize("kind", WRITERS)
def test_an_embedding_is_exported_to_every_format(tmp_path, kind):
    model = make_embedding()
    assert WRITERS[kind](model, tmp_path / "new") < 1e-5
    np.testing.assert_allclose(load(kind, tmp_path / "new")(IMAGES), model(IMAGES), atol=1e-5)


@pytest.mark.parametrize("name", ["logits", "regression", "pooling", "embedding inside", "one sigmoid"])
def test_other_outputs_are_exported_too(tmp_path, name):
    model = MODELS[name][0]()
    export.to_tflite(model, tmp_path / "new")
    np.testing.assert_allclose(export.load_tflite(tmp_path / "new")(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_saved_model_names_its_outputs_and_keeps_the_class_names_of_logits(tmp_path):
    model = make_small(None)
    export.to_saved_model(model, tmp_path / "new", labels=LABELS)
    outputs = tf.saved_model.load(str(tmp_path / "new")).signatures["serving_default"](tf.constant(IMAGES))
    assert [*outputs] == ["outputs"]
    assert (tmp_path / "new/assets/labels.txt").read_text().splitlines() == LABELS


def test_a_page_is_refused_as_it_shows_probabilities(tmp_path):
    with pytest.raises(ValueError, match="shows probabilities, and small gives none.*`classifier_activation`"):
        export.to_web(make_small(None), tmp_path / "page")
    assert not [*tmp_path.iterdir()]


def cosine(one, other):
    return np.mean([np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(one, other, strict=True)])


def measure(model, exported, folder, **options):
    images = Images(pixels=IMAGES, labels=options.pop("labels", None), origin="random images")
    write = functools.partial(export.to_tflite, exported)
    return write_measured(write, model, folder / "new", "tflite", images, **options)


def test_the_report_of_an_embedding_compares_values(tmp_path):
    model, other = make_embedding(), make_embedding()
    kernel, bias = other.layers[-2].get_weights()
    other.layers[-2].set_weights([kernel, bias + 0.1])
    expected, found = np.asarray(model(IMAGES)), np.asarray(other(IMAGES))
    report = measure(model, other, tmp_path, least_agreement=0.0)
    assert (report.agreement, report.accuracy, report.outputs) == (None, None, "outputs")
    assert report.cosine == pytest.approx(cosine(found, expected), abs=1e-5)
    assert report.max_difference == pytest.approx(np.abs(found - expected).max(), abs=1e-5)
    assert report.mean_difference == pytest.approx(np.abs(found - expected).mean(), abs=1e-5)
    assert report.range == pytest.approx((expected.min(), expected.max()), abs=1e-5)
    text = format_report(report)
    assert "cosine similarity" in text and "difference of an output" in text
    assert "probability" not in text and "top-1" not in text and "agreement" not in text
    with pytest.raises(export.RejectedFileError, match=r"cosine similarity of 0\.\d+ to the model's .*0\.9999 is"):
        measure(model, other, tmp_path, least_agreement=0.9999, overwrite=True)


def test_logits_with_known_classes_are_classes(tmp_path):
    model = make_small(None)
    classes = np.asarray(model(IMAGES)).argmax(axis=1)
    report = measure(model, model, tmp_path, labels=classes)
    assert (report.agreement, report.accuracy) == (1, 1)
    assert "agreement with the model" in format_report(report) and "cosine" in format_report(report)


def test_a_single_output_has_no_cosine(tmp_path):
    model = make_small(None, classes=1)
    report = measure(model, model, tmp_path)
    assert (report.agreement, report.cosine) == (None, None)
    assert "difference of an output" in format_report(report)


@pytest.mark.parametrize("make", [make_embedding, end])
def test_a_quantized_file_with_other_values_is_found(make):
    model = make()
    values = np.asarray(model(IMAGES))
    noise = np.random.default_rng(0).normal(0, 0.05 * values.std(axis=0), values.shape)
    check_roughly(model, lambda _: values + noise, "file", IMAGES)
    for wrong in (values.mean(axis=0) + 0 * values, np.roll(values, 1, axis=0)):
        with pytest.raises(RuntimeError, match="% of their variation, where 50% is allowed"):
            check_roughly(model, lambda _, wrong=wrong: wrong, "file", IMAGES)


def test_an_embedding_is_quantized(tmp_path):
    model = make_embedding()
    export.to_tflite(model, tmp_path / "new", quantize="int8", images=IMAGES)
    assert cosine(export.load_tflite(tmp_path / "new")(IMAGES), np.asarray(model(IMAGES))) > 0.99


def test_the_script_exports_an_embedding_beside_a_run_and_measures_it_on_class_folders(tmp_path):
    make_embedding().save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")  # of the classifier that the embedding was trained in
    for split in ("train", "validation"):
        write_folder(tmp_path / "images" / split, ["cat", "dog"], 2)
    options = ("--model=model.keras", "--output=new", "--images=images")
    code, lines, errors = run(ROOT / "export/to_tflite.py", *options, cwd=tmp_path)
    assert (code, errors) == (0, []), errors
    assert any(line.startswith("| cosine similarity to the model | 1.000000") for line in lines)
    assert json.loads((tmp_path / "new.report.json").read_text())["accuracy"] is None
