"""Our B0 to B7 give the logits of keras.applications with the same weights, run here and recorded in tests/golden."""

import keras
import numpy as np
import pytest
from support.reference import fill, reference_images

from keras_efficientnet import models

pytestmark = pytest.mark.usefixtures("zero_kernels")
TOLERANCE = 2e-5  # of the largest logit; rounding in float32 gives 2e-6, the smallest known error 5e-4
ANY_SIZE = (None, None, 3)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of the "imagenet" graph


def build(family, number, input_shape, **arguments):
    constructor = getattr(family, f"EfficientNetB{number}")
    return constructor(weights=None, input_shape=input_shape, classifier_activation=None, **arguments)


def copy_weights(source, target):
    """Copies weights by layer name; every layer of `target` with weights must get some."""
    for layer in target.layers:
        if layer.weights:
            for weight, value in zip(layer.weights, source.get_layer(layer.name).weights, strict=True):
                weight.assign(value)
    return target


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_close(actual, expected, largest=None, case=""):
    largest = largest or np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * largest, err_msg=case)


def slow_from(first):
    """Parameters for B0 to B7, marked slow from a number on."""
    marks = {number: [pytest.mark.slow] if number >= first else [] for number in range(8)}
    return [pytest.param(number, id=f"b{number}", marks=marks[number]) for number in range(8)]


@pytest.fixture(scope="module", params=slow_from(2))
def number(request):
    return request.param


@pytest.fixture(scope="module")
def cases(number, golden):
    """Recorded outputs of one network: (name, row, images, logits of every eighth class)."""
    logits = golden("keras_applications.npz")
    return [
        (name, row, reference_images(row["batch"], row["height"], row["width"], row["image_seed"]), logits[name])
        for name, row in golden("keras_applications")["cases"].items()
        if row["model"] == f"EfficientNetB{number}"
    ]


@pytest.fixture(scope="module")
def theirs(number, cases):
    """Networks of keras.applications for each recorded size, by input shape."""
    shapes = {images.shape[1:] for _, _, images, _ in cases}
    return {shape: fill(build(keras.applications, number, shape)) for shape in shapes}


@pytest.fixture(scope="module")
def ours(number, theirs):
    """Our network for pixels from 0 to 255 and any size, like the "imagenet" graph of keras.applications."""
    return copy_weights(next(iter(theirs.values())), build(models, number, ANY_SIZE))


def normalize(images):
    return ((images / 255 - MEAN) / DEVIATION).astype("float32")


def test_every_network_of_keras_applications_has_both_recorded_graphs(golden):
    found = {(row["model"], row["graph"]) for row in golden("keras_applications")["cases"].values()}
    assert found == {(f"EfficientNetB{number}", graph) for number in range(8) for graph in ("plain", "imagenet")}


def test_the_imagenet_graph_gives_the_logits_of_keras_applications(ours, cases, theirs):
    for name, row, images, recorded in cases:
        if row["graph"] == "imagenet":
            logits = predict(ours, images)
            assert_close(logits[:, ::8], recorded, row["largest"], case=name)
            # without published weights, the network of keras.applications only divides pixels by 255
            assert_close(logits, predict(theirs[images.shape[1:]], 255 * normalize(images)), case=name)


def test_the_plain_graph_gives_the_logits_of_keras_applications(number, ours, cases, theirs):
    plain = copy_weights(ours, build(models, number, ANY_SIZE, include_preprocessing=False))
    for name, row, images, recorded in cases:
        if row["graph"] == "plain":
            logits = predict(plain, images / np.float32(255))
            assert_close(logits[:, ::8], recorded, row["largest"], case=name)
            assert_close(logits, predict(theirs[images.shape[1:]], images), case=name)


SLOW_SIZES = [pytest.param(size, size, marks=pytest.mark.slow) for size in (240, 260)]


# keras.applications pads for the size that it was built for, so B1 to B4 are wrong at other sizes
@pytest.mark.parametrize(("height", "width"), [*SLOW_SIZES, (300, 300), (203, 181)])
def test_a_network_for_any_size_equals_one_built_for_the_size(number, ours, height, width):
    images = reference_images(1, height, width, seed=3)
    fixed = copy_weights(ours, build(models, number, (height, width, 3)))
    assert_close(predict(ours, images), predict(fixed, images))
