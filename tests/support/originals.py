"""Recorded data of the original programs: names and shapes of weights, images, logits; and our networks."""

import gzip
import json
import warnings

import numpy as np
import pytest
from conftest import GOLDEN

from keras_efficientnet import models
from keras_efficientnet.weights import registry
from support.reference import reference_array, reference_images

# how the original programs normalised the reference images: tests/golden/timm/cases.json, "normalisation"
NORMALISATIONS = {
    "imagenet": lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "half": lambda x: (x / 255 - 0.5) / 0.5,
    "official_127_128": lambda x: (x - 127.0) / 128.0,
}


def read_origin(origin):
    """Returns what was recorded of an original program: networks, images, logits."""
    return json.loads((GOLDEN / origin / "cases.json").read_text())


def read_rows(origin, name):
    """Returns (name, shape) of every array of the original."""
    return json.loads(gzip.decompress((GOLDEN / origin / f"{name}.json.gz").read_bytes()))


def read_state(name, origin="timm"):
    """Returns the state_dict of the original: each array by the reference formula, with its own name and shape."""
    experts = read_origin(origin).get("experts", {}).get(name, {})
    return {
        key: reference_array(key, experts.get(key, shape)).reshape(shape)
        if not key.endswith("num_batches_tracked")
        else np.array(0)
        for key, shape in read_rows(origin, f"keys_{name}")
    }


def make(name, **arguments):
    """Returns a network without normalisation and softmax, as the originals are."""
    arguments = {"include_preprocessing": False, "classifier_activation": None, **arguments}
    return models.create_model(name, input_shape=arguments.pop("input_shape", (None, None, 3)), **arguments)


def make_images(case):
    """Returns the reference images of a case, normalised as its original was given them."""
    images = reference_images(case["batch"], case["height"], case["width"], case["image_seed"]).astype("float64")
    if "normalisation" in case:
        return NORMALISATIONS[case["normalisation"]](images).astype("float32")
    return ((images - case["mean_rgb"]) / case["stddev_rgb"]).astype("float32")


def assert_close(actual, expected, case):
    """Asserts that logits are those of the original, to float32 precision."""
    # correct float32 networks differ by 2e-6 of the largest logit, as measured on four implementations
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * case["logits_max_abs"], err_msg=case["case"])


def assert_each_fills_one(model, rows, extras, origin=None):
    """Loads arrays that each hold one distinct number: every variable gets one, and only extras are unused."""
    numbers = {key: number for number, (key, _) in enumerate(rows, 1)}
    arrays = {key: np.broadcast_to(np.float32(numbers[key]), shape) for key, shape in rows}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.convert(model, arrays, origin=origin)
    assert_filled(model, {number for key, number in numbers.items() if not key.endswith(extras)})


def assert_filled(model, numbers):
    """Asserts that each variable holds a single number, and that these are `numbers`."""
    found = [(float(array.min()), float(array.max())) for array in model.get_weights() if array.dtype == "float32"]
    assert all(lowest == highest for lowest, highest in found)
    assert sorted(lowest for lowest, _ in found) == sorted(numbers)


def slow_if_large(name, value=None):
    """Returns a pytest parameter, marked slow for the networks that take long to build or need gigabytes."""
    large = any(name.endswith(end) for end in ("b2", "b4", "b5", "b6", "b7", "b8", "l2"))
    return pytest.param(name if value is None else value, id=name, marks=[pytest.mark.slow] if large else [])
