"""The originals as they were recorded: names and shapes of weights, images, logits; and our networks beside them."""

import gzip
import json
import warnings

import numpy as np
import pytest
from conftest import GOLDEN
from reference import reference_array, reference_images

from keras_efficientnet import models
from keras_efficientnet.weights import registry

# pixels of the reference images -> what the originals were run on: tests/golden/timm/cases.json, "normalisation"
NORMALISATIONS = {
    "imagenet": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "half": lambda x: (x / 255 - 0.5) / 0.5,
    "official_127_128": lambda x: (x - 127.0) / 128.0,
}


def read_origin(origin):
    return json.loads((GOLDEN / origin / "cases.json").read_text())


def read_rows(origin, name):
    """(name, shape) of every array that the original has."""
    return json.loads(gzip.decompress((GOLDEN / origin / f"{name}.json.gz").read_bytes()))


def read_state(name, origin="timm"):
    """The state_dict of the original: every array by the reference formula, under its own name and in its shape."""
    experts = read_origin(origin).get("experts", {}).get(name, {})
    return {
        key: reference_array(key, experts.get(key, shape)).reshape(shape)
        if not key.endswith("num_batches_tracked")
        else np.array(0)
        for key, shape in read_rows(origin, f"keys_{name}")
    }


def make(name, **arguments):
    arguments = {"include_preprocessing": False, "classifier_activation": None, **arguments}
    return models.create_model(name, input_shape=arguments.pop("input_shape", (None, None, 3)), **arguments)


def make_images(case):
    images = reference_images(case["batch"], case["height"], case["width"], case["image_seed"]).astype("float64")
    if "normalisation" in case:
        return NORMALISATIONS[case["normalisation"]](images).astype("float32")
    return ((images - case["mean_rgb"]) / case["stddev_rgb"]).astype("float32")


def assert_close(actual, expected, case):
    # a right float32 network is at 2e-6 of the largest logit: measured on four implementations
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * case["logits_max_abs"], err_msg=case["case"])


def assert_each_fills_one(model, rows, extras, origin=None):
    """Of arrays that each hold one number of their own, every variable has one, and all are used but the extras."""
    numbers = {key: number for number, (key, _) in enumerate(rows, 1)}
    arrays = {key: np.broadcast_to(np.float32(numbers[key]), shape) for key, shape in rows}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.convert(model, arrays, origin=origin)
    assert_filled(model, {number for key, number in numbers.items() if not key.endswith(extras)})


def assert_filled(model, numbers):
    """Every variable holds one number only, and all of them together hold these."""
    found = [np.unique(array) for array in model.get_weights() if array.dtype == "float32"]
    assert all(len(values) == 1 for values in found)
    assert sorted(float(values[0]) for values in found) == sorted(numbers)


def slow_if_large(name, value=None):
    """A parameter of pytest: networks above B5 take seconds to build and gigabytes to hold."""
    large = any(name.endswith(end) for end in ("b6", "b7", "b8", "l2"))
    return pytest.param(name if value is None else value, id=name, marks=[pytest.mark.slow] if large else [])
