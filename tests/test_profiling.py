import math

import pytest

from keras_efficientnet import models
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.profiling import profile

# millions at the given side: timm at 13178ba, results/model_benchmark_amp_nchw_rtx3090.csv, infer_macts of tf_ models
ACTIVATIONS = {
    ("efficientnet-b0", 224): 6.75,
    ("efficientnet-b1", 240): 10.88,
    ("efficientnet-b2", 260): 13.83,
    ("efficientnet-b3", 300): 23.83,
    ("efficientnet-b4", 380): 49.49,
    ("efficientnet-b5", 456): 98.86,
    ("efficientnet-b6", 528): 167.39,
    ("efficientnet-b7", 600): 289.94,
    ("efficientnet-b8", 672): 442.89,
    ("efficientnet-l2", 475): 609.89,
    ("efficientnet-l2", 800): 1707.39,
}


@pytest.fixture(scope="module")
def published(golden):
    return golden("params")["models"]


def test_every_variant_has_published_counts(published):
    assert set(published) == {name for name in VARIANTS if not name.endswith("-torch")}
    assert {name for name, _ in ACTIVATIONS} == set(list(VARIANTS)[:10])


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("-torch")])
def test_another_padding_does_not_change_the_counts(published, name):
    # torchvision's table states the same parameters: 5,288,548 for B0, 66,347,960 for B7
    assert profile(name).parameters == published[name.removesuffix("-torch")]["parameters"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("-torch")])
def test_parameter_counts_are_the_published_ones(published, name):
    counts = profile(name)
    assert counts.parameters == published[name]["parameters"]
    assert counts.statistics == published[name]["statistics"]
    assert profile(name, classes=0).parameters == published[name]["parameters_without_top"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.endswith("-torch")])
def test_multiply_adds_are_the_published_ones_at_each_size(published, name):
    for side, macs in published[name]["macs"].items():
        assert profile(name, int(side)).macs == macs


@pytest.mark.parametrize(("name", "side"), ACTIVATIONS)
def test_activations_are_those_of_timm(name, side):
    assert profile(name, side).activations / 1e6 == pytest.approx(ACTIVATIONS[name, side], abs=0.006)


def test_b0_has_the_papers_size():
    # Tan & Le 2019, table 2: 5.3 M parameters, 0.39 B FLOPS
    counts = profile("efficientnet-b0")
    assert counts[:3] == (5_288_548, 42_016, 385_814_752)
    assert counts.resolution == 224


def test_resolution_is_the_variants_own_by_default():
    assert profile("efficientnet-b3") == profile("efficientnet-b3", 300) != profile("efficientnet-b3", 224)


def test_a_name_and_its_row_have_the_same_profile():
    assert profile("tf_efficientnet_b1") == profile(VARIANTS["efficientnet-b1"]) == profile("efficientnet-b1")


def test_classes_add_exactly_the_classifier():
    with_top, without = profile("efficientnet-b0", classes=7), profile("efficientnet-b0", classes=0)
    assert with_top.parameters - without.parameters == 7 * (1280 + 1)
    assert with_top.macs - without.macs == 7 * 1280
    assert with_top.activations - without.activations == 7


@pytest.mark.parametrize("kind", ["efficientnet-b0", "efficientnet-condconv-b0-4e", "efficientnet-edgetpu-S"])
@pytest.mark.parametrize("classes", [10, 0])
def test_profile_counts_what_is_built(kind, classes):
    top = {"classes": classes} if classes else {"include_top": False}
    row = VARIANTS[kind]._replace(width=0.25, depth=0.5, resolution=32)
    model = models.make_model(row, **top)
    counts = profile(row, classes=classes)
    assert sum(math.prod(w.shape) for w in model.trainable_weights) == counts.parameters
    assert sum(math.prod(w.shape) for w in model.non_trainable_weights) == counts.statistics


@pytest.mark.parametrize(("resolution", "classes"), [(0, 1000), (-32, 1000), (224, -1)])
def test_sizes_out_of_range_raise_an_error(resolution, classes):
    with pytest.raises(ValueError, match=f"Received: resolution={resolution}, classes={classes}"):
        profile("efficientnet-b0", resolution, classes)


def test_an_unknown_model_raises_an_error():
    with pytest.raises(ValueError, match="Unknown model 'efficientnet-b9'"):
        profile("efficientnet-b9")
