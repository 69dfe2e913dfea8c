"""MediaPipe's ImageClassifier reads the files, and predicts the class that the model predicts."""

import io
import zipfile

import numpy as np
import pytest
from support.classifiers import draw_images, train_small

from keras_efficientnet import export
from keras_efficientnet.export.metadata import add_metadata
from keras_efficientnet.models import make_model

LABELS = [f"name of class {index}" for index in range(10)]
FILES = [("none", "float32"), ("int8", "uint8")]
MORE_FILES = [("float16", "float32"), ("dynamic", "float32"), ("int8", "float32")]
IMAGES = draw_images(20, seed=3)[0]

# Prints the index, the score and the name of the best class of each image; in a process of its own, as MediaPipe warns.
CLASSIFY = """
import sys
import mediapipe as mp, numpy as np
from mediapipe.tasks.python import BaseOptions, vision
images, *paths = sys.argv[1:]
for path in paths:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path), max_results=1)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in np.load(images):
            result = classifier.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(image)))
            [best] = result.classifications[0].categories
            print("best", path, best.index, best.score, best.category_name, sep="|")
"""


@pytest.fixture(scope="module")
def network():
    return train_small("b0")


def write_files(network, folder, kinds):
    """Writes a file of each kind, and one without labels."""
    export.to_tflite(network, folder / "unlabelled")
    for quantize, input_dtype in kinds:
        options = {"quantize": quantize, "input_dtype": input_dtype, "images": draw_images(40)[0], "labels": LABELS}
        export.to_tflite(network, folder / f"{quantize}-{input_dtype}", **options)
    return folder


def classify(folder, run_python):
    """Returns what MediaPipe predicts for each image: file name -> (index, score, name)."""
    paths = sorted(folder.iterdir())
    np.save(folder / "images.npy", IMAGES.astype("uint8"))
    rows = [line.split("|") for line in run_python(CLASSIFY, folder / "images.npy", *paths).splitlines()]
    return {path.name: [row[2:] for row in rows if row[:2] == ["best", str(path)]] for path in paths}


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    return write_files(network, tmp_path_factory.mktemp("files"), FILES)


@pytest.fixture(scope="module")
def classified(folder, run_python):
    return classify(folder, run_python)


@pytest.fixture(scope="module")
def more_classified(network, tmp_path_factory, run_python):
    return classify(write_files(network, tmp_path_factory.mktemp("more_files"), MORE_FILES), run_python)


def check_predictions(network, rows, quantize):
    probabilities = np.asarray(network(IMAGES, training=False))
    expected = probabilities.argmax(axis=1)
    assert [int(index) for index, *_ in rows] == expected.tolist()
    assert [name for *_, name in rows] == [LABELS[index] for index in expected]
    if quantize == "none":
        np.testing.assert_allclose([float(score) for _, score, _ in rows], probabilities.max(axis=1), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "input_dtype"), FILES)
def test_mediapipe_predicts_the_class_of_the_model(network, classified, quantize, input_dtype):
    check_predictions(network, classified[f"{quantize}-{input_dtype}"], quantize)


@pytest.mark.slow
@pytest.mark.parametrize(("quantize", "input_dtype"), MORE_FILES)
def test_mediapipe_predicts_the_class_of_the_model_in_other_precisions(network, more_classified, quantize, input_dtype):
    check_predictions(network, more_classified[f"{quantize}-{input_dtype}"], quantize)


@pytest.mark.slow
def test_mediapipe_gives_class_numbers_for_a_file_without_labels(network, classified):
    expected = np.asarray(network(IMAGES, training=False)).argmax(axis=1)
    assert [int(index) for index, *_ in classified["unlabelled"]] == expected.tolist()
    assert {name for *_, name in classified["unlabelled"]} <= {"", "None"}


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """A file with labels and one without."""
    return write_files(make_model(tiny, classes=10), tmp_path_factory.mktemp("plain"), FILES[:1])


def test_labels_are_a_zip_entry_of_the_file(plain):
    with zipfile.ZipFile(plain / "none-float32") as archive:
        assert archive.read("labels.txt").decode().splitlines() == LABELS
    assert not zipfile.is_zipfile(plain / "unlabelled")


def test_metadata_are_reproducible(plain):
    content = (plain / "unlabelled").read_bytes()
    assert add_metadata(content, "name", LABELS) == add_metadata(content, "name", LABELS)
    with zipfile.ZipFile(io.BytesIO(add_metadata(content, "name", ["one", "zw\u00f6lf"]))) as archive:
        assert archive.read("labels.txt").decode("utf-8").splitlines() == ["one", "zw\u00f6lf"]
