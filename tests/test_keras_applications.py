"""Our B0 to B7 against those of keras.applications, run here and as recorded in tests/golden, with the same weights."""

import gc

import keras
import numpy as np
import pytest
from support.reference import fill, reference_images

from keras_efficientnet import models

TOLERANCE = 2e-5  # of the largest logit; float32 alone makes 2e-6, the smallest mistake known 5e-4
ANY_SIZE = (None, None, 3)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of the "imagenet" graph


def build(family, number, input_shape, **arguments):
    constructor = getattr(family, f"EfficientNetB{number}")
    return constructor(weights=None, input_shape=input_shape, classifier_activation=None, **arguments)


def copy_weights(source, target):
    """By the names of the layers; every layer of `target` that has weights must get some."""
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


@pytest.fixture(scope="module", autouse=True)
def quick_start():
    """Networks start with kernels of zeros: no time goes into random ones that are replaced at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", keras.initializers.Zeros.__call__)
        yield


@pytest.fixture(scope="module", params=range(8), ids="b{}".format)
def number(request):
    yield request.param
    gc.collect()  # a network is a cycle, and the large ones are hundreds of megabytes


@pytest.fixture(scope="module")
def cases(number, golden):
    """The recorded runs of one network: (name, row, images, recorded logits of every eighth class)."""
    logits = golden("keras_applications.npz")
    return [
        (name, row, reference_images(row["batch"], row["height"], row["width"], row["image_seed"]), logits[name])
        for name, row in golden("keras_applications")["cases"].items()
        if row["model"] == f"EfficientNetB{number}"
    ]


@pytest.fixture(scope="module")
def theirs(number, cases):
    """keras.applications' network of each recorded size, by input shape."""
    shapes = {images.shape[1:] for _, _, images, _ in cases}
    return {shape: fill(build(keras.applications, number, shape)) for shape in shapes}


@pytest.fixture(scope="module")
def ours(number, theirs):
    """Takes pixels from 0 to 255, of any size: keras.applications' "imagenet" graph."""
    return copy_weights(next(iter(theirs.values())), build(models, number, ANY_SIZE))


def normalize(images):
    return ((images / 255 - MEAN) / DEVIATION).astype("float32")


def test_every_network_of_keras_applications_has_both_recorded_graphs(golden):
    found = {(row["model"], row["graph"]) for row in golden("keras_applications")["cases"].values()}
    assert found == {(f"EfficientNetB{number}", graph) for number in range(8) for graph in ("plain", "imagenet")}


def test_the_imagenet_graph_gives_their_logits(ours, cases, theirs):
    for name, row, images, recorded in cases:
        if row["graph"] == "imagenet":
            logits = predict(ours, images)
            assert_close(logits[:, ::8], recorded, row["largest"], case=name)
            # their graph without weights divides pixels by 255 and does no more
            assert_close(logits, predict(theirs[images.shape[1:]], 255 * normalize(images)), case=name)


def test_the_plain_graph_gives_their_logits(number, ours, cases, theirs):
    plain = copy_weights(ours, build(models, number, ANY_SIZE, include_preprocessing=False))
    for name, row, images, recorded in cases:
        if row["graph"] == "plain":
            logits = predict(plain, images / np.float32(255))
            assert_close(logits[:, ::8], recorded, row["largest"], case=name)
            assert_close(logits, predict(theirs[images.shape[1:]], images), case=name)


# keras.applications pads by the size it was built for, and errs at others: there, B1 to B4 at their own sizes
@pytest.mark.parametrize(("height", "width"), [(240, 240), (260, 260), (300, 300), (203, 181)])
def test_a_network_for_any_size_equals_one_built_for_the_size(number, ours, height, width):
    images = reference_images(1, height, width, seed=3)
    fixed = copy_weights(ours, build(models, number, (height, width, 3)))
    assert_close(predict(ours, images), predict(fixed, images))
