import fnmatch
import math

import pytest

from keras_efficientnet.architectures import (
    MEAN_RGB,
    STAGES,
    STDDEV_RGB,
    VARIANTS,
    blocks,
    find_variant,
    head_filters,
    official_name,
    round_filters,
    stem_filters,
)

# width, depth, resolution, dropout, stem, head: tensorflow/tpu 7dc921f, models/official/efficientnet,
# efficientnet_builder.py, efficientnet_params; the same rows in google/automl, efficientnetv1_params
COEFFICIENTS = {
    "efficientnet-b0": (1.0, 1.0, 224, 0.2, 32, 1280),
    "efficientnet-b1": (1.0, 1.1, 240, 0.2, 32, 1280),
    "efficientnet-b2": (1.1, 1.2, 260, 0.3, 32, 1408),
    "efficientnet-b3": (1.2, 1.4, 300, 0.3, 40, 1536),
    "efficientnet-b4": (1.4, 1.8, 380, 0.4, 48, 1792),
    "efficientnet-b5": (1.6, 2.2, 456, 0.4, 48, 2048),
    "efficientnet-b6": (1.8, 2.6, 528, 0.5, 56, 2304),
    "efficientnet-b7": (2.0, 3.1, 600, 0.5, 64, 2560),
    "efficientnet-b8": (2.2, 3.6, 672, 0.5, 72, 2816),
    "efficientnet-l2": (4.3, 5.3, 800, 0.5, 136, 5504),
    # the same repository: condconv/, lite/ and edgetpu/, *_builder.py; CondConv B1 at timm's 240 pixels, not its 224
    "efficientnet-condconv-b0-4e": (1.0, 1.0, 224, 0.25, 32, 1280),
    "efficientnet-condconv-b0-8e": (1.0, 1.0, 224, 0.25, 32, 1280),
    "efficientnet-condconv-b1-8e": (1.0, 1.1, 240, 0.25, 32, 1280),
    # timm, efficientnet.py, efficientnet_b1_pruned and so on: the coefficients of B1 to B3
    "efficientnet-b1-pruned": (1.0, 1.1, 240, 0.2, 32, 1280),
    "efficientnet-b2-pruned": (1.1, 1.2, 260, 0.3, 32, 1408),
    "efficientnet-b3-pruned": (1.2, 1.4, 300, 0.3, 40, 1536),
    "efficientnet-lite0": (1.0, 1.0, 224, 0.2, 32, 1280),
    "efficientnet-lite1": (1.0, 1.1, 240, 0.2, 32, 1280),
    "efficientnet-lite2": (1.1, 1.2, 260, 0.3, 32, 1280),
    "efficientnet-lite3": (1.2, 1.4, 280, 0.3, 32, 1280),
    "efficientnet-lite4": (1.4, 1.8, 300, 0.3, 32, 1280),
    "efficientnet-edgetpu-S": (1.0, 1.0, 224, 0.2, 32, 1280),
    "efficientnet-edgetpu-M": (1.0, 1.1, 240, 0.2, 32, 1280),
    "efficientnet-edgetpu-L": (1.2, 1.4, 300, 0.2, 40, 1536),
    # torchvision, efficientnet.py, efficientnet_b0 and so on, and the crop_size of their first weights
    "efficientnet-b0-torch": (1.0, 1.0, 224, 0.2, 32, 1280),
    "efficientnet-b1-torch": (1.0, 1.1, 240, 0.2, 32, 1280),
    "efficientnet-b2-torch": (1.1, 1.2, 288, 0.3, 32, 1408),
    "efficientnet-b3-torch": (1.2, 1.4, 300, 0.3, 40, 1536),
    "efficientnet-b4-torch": (1.4, 1.8, 380, 0.4, 48, 1792),
    "efficientnet-b5-torch": (1.6, 2.2, 456, 0.4, 48, 2048),
    "efficientnet-b6-torch": (1.8, 2.6, 528, 0.5, 56, 2304),
    "efficientnet-b7-torch": (2.0, 3.1, 600, 0.5, 64, 2560),
}

# of the default weights: timm 1.0.31, default_cfgs, crop_pct; -torch: torchvision 0.28.0, crop_size / resize_size.
# Lite3 and Lite4 have other resolutions there, and fractions to match
CROP_FRACTIONS = {
    **{f"efficientnet-b{n}": x for n, x in enumerate((0.875, 0.882, 0.89, 0.904, 0.922, 0.934, 0.942, 0.949, 0.954))},
    "efficientnet-l2": 0.961,
    "efficientnet-condconv-b0-4e": 0.875,
    "efficientnet-condconv-b0-8e": 0.875,
    "efficientnet-condconv-b1-8e": 0.882,
    "efficientnet-b1-pruned": 0.882,
    "efficientnet-b2-pruned": 0.89,
    "efficientnet-b3-pruned": 0.904,
    "efficientnet-lite0": 0.875,
    "efficientnet-lite1": 0.882,
    "efficientnet-lite2": 0.89,
    "efficientnet-edgetpu-S": 0.875,
    "efficientnet-edgetpu-M": 0.882,
    "efficientnet-edgetpu-L": 0.904,
    "efficientnet-b0-torch": 224 / 256,
    "efficientnet-b1-torch": 240 / 256,
    "efficientnet-b2-torch": 1.0,
    "efficientnet-b3-torch": 300 / 320,
    "efficientnet-b4-torch": 380 / 384,
    "efficientnet-b5-torch": 1.0,
    "efficientnet-b6-torch": 1.0,
    "efficientnet-b7-torch": 1.0,
}

# channels put out by each stage, and its blocks: the official code's graphs, counted
STAGE_SHAPES = {
    "efficientnet-b0": ([16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1], 16),
    "efficientnet-b1": ([16, 24, 40, 80, 112, 192, 320], [2, 3, 3, 4, 4, 5, 2], 23),
    "efficientnet-b2": ([16, 24, 48, 88, 120, 208, 352], [2, 3, 3, 4, 4, 5, 2], 23),
    "efficientnet-b3": ([24, 32, 48, 96, 136, 232, 384], [2, 3, 3, 5, 5, 6, 2], 26),
    "efficientnet-b4": ([24, 32, 56, 112, 160, 272, 448], [2, 4, 4, 6, 6, 8, 2], 32),
    "efficientnet-b5": ([24, 40, 64, 128, 176, 304, 512], [3, 5, 5, 7, 7, 9, 3], 39),
    "efficientnet-b6": ([32, 40, 72, 144, 200, 344, 576], [3, 6, 6, 8, 8, 11, 3], 45),
    "efficientnet-b7": ([32, 48, 80, 160, 224, 384, 640], [4, 7, 7, 10, 10, 13, 4], 55),
    "efficientnet-b8": ([32, 56, 88, 176, 248, 424, 704], [4, 8, 8, 11, 11, 15, 4], 61),
    "efficientnet-l2": ([72, 104, 176, 344, 480, 824, 1376], [6, 11, 11, 16, 16, 22, 6], 88),
}

# B0's blocks: kernel, stride, channels entering, widened, squeezed, leaving. timm 1.0.31, tf_efficientnet_b0, printed
# fmt: off
B0_BLOCKS = [
    (3, 1, 32, 32, 8, 16),
    (3, 2, 16, 96, 4, 24), (3, 1, 24, 144, 6, 24),
    (5, 2, 24, 144, 6, 40), (5, 1, 40, 240, 10, 40),
    (3, 2, 40, 240, 10, 80), (3, 1, 80, 480, 20, 80), (3, 1, 80, 480, 20, 80),
    (5, 1, 80, 480, 20, 112), (5, 1, 112, 672, 28, 112), (5, 1, 112, 672, 28, 112),
    (5, 2, 112, 672, 28, 192), (5, 1, 192, 1152, 48, 192), (5, 1, 192, 1152, 48, 192), (5, 1, 192, 1152, 48, 192),
    (3, 1, 192, 1152, 48, 320),
]
# fmt: on

IMPORT_WITHOUT = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name in ("keras", "tensorflow"):
            raise ModuleNotFoundError(name)
if {forbid}:
    sys.meta_path.insert(0, Absent)
from keras_efficientnet import architectures, profile, profiling
assert profile("efficientnet-b0").parameters == 5288548
print(sorted(name for name in sys.modules if name.split(".")[0] in ("keras", "tensorflow")))
"""


def test_every_variant_is_in_the_expected_tables():
    assert list(VARIANTS) == list(COEFFICIENTS)
    assert list(VARIANTS)[:10] == list(STAGE_SHAPES)
    assert set(VARIANTS) - set(CROP_FRACTIONS) == {"efficientnet-lite3", "efficientnet-lite4"}


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficients_are_the_published_ones(name):
    variant = VARIANTS[name]
    assert (*variant[:4], stem_filters(variant), head_filters(variant)) == COEFFICIENTS[name]


@pytest.mark.parametrize("name", CROP_FRACTIONS)
def test_evaluation_crops_the_published_fraction(name):
    assert VARIANTS[name].crop_fraction == pytest.approx(CROP_FRACTIONS[name], abs=1e-3)


# mean and deviation of pixels, activation, resizing: tensorflow/tpu, the builders and main.py; pruned: timm; -torch:
# torchvision, transforms of the weights
@pytest.mark.parametrize(
    ("pattern", "mean", "deviation", "activation", "interpolation", "padding"),
    [
        ("b?", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "swish", "bicubic", "same"),
        ("l2", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "swish", "bicubic", "same"),
        ("condconv-*", (127, 127, 127), (128, 128, 128), "swish", "bicubic", "same"),
        ("b?-pruned", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5), "swish", "bicubic", "same"),
        ("lite?", (127, 127, 127), (128, 128, 128), "relu6", "bilinear", "same"),
        ("edgetpu-?", (127, 127, 127), (128, 128, 128), "relu", "bilinear", "same"),
        ("b?-torch", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "swish", "bicubic", "symmetric"),
    ],
)
def test_each_family_has_its_published_settings(pattern, mean, deviation, activation, interpolation, padding):
    names = fnmatch.filter(VARIANTS, f"efficientnet-{pattern}")
    assert names
    for name in names:
        row = VARIANTS[name]
        assert (row.mean, row.deviation) == (pytest.approx(mean), pytest.approx(deviation)), name
        assert (row.activation, row.interpolation, row.padding) == (activation, interpolation, padding), name
        # torchvision, efficientnet.py: B0 to B4 with PyTorch's own 1e-5, B5 to B7 with eps=0.001
        assert row.epsilon == (1e-5 if name.endswith("-torch") and name[14] in "01234" else 1e-3), name


def test_accuracies_are_the_published_ones(golden):
    published = golden("accuracies")["models"]
    assert {name: [x.top_1, x.top_5] for name, x in VARIANTS.items()} == published
    # the model cards of timm, of files in megabytes
    assert [x.megabytes for x in VARIANTS.values() if x.megabytes] == [51.01, 91.83, 151.83, 24.41, 32.00, 37.93]


@pytest.mark.parametrize("name", STAGE_SHAPES)
def test_stages_have_the_published_channels_and_repeats(name):
    rows = blocks(VARIANTS[name])
    stages = [[row for row in rows if row.name.startswith(f"block{number}")] for number in range(1, 8)]
    channels, repeats, count = STAGE_SHAPES[name]
    assert [stage[-1].filters_out for stage in stages] == channels
    assert [len(stage) for stage in stages] == repeats
    assert len(rows) == count


def test_blocks_of_b0_are_the_published_ones():
    assert [tuple(row)[1:7] for row in blocks(VARIANTS["efficientnet-b0"])] == B0_BLOCKS


def test_only_the_first_stage_does_not_widen():
    rows = blocks(VARIANTS["efficientnet-b7"])
    assert [row.name for row in rows if not row.widens] == ["block1a", "block1b", "block1c", "block1d"]


def test_skip_connections_are_where_the_official_code_has_them(golden):
    for name, expected in golden("survival")["models"].items():
        rows = blocks(VARIANTS[name])
        assert [index for index, row in enumerate(rows) if row.skip] == expected["shortcuts"], name


@pytest.mark.parametrize("name", VARIANTS)
def test_the_input_channels_of_a_block_are_the_output_channels_of_the_previous_block(name):
    rows = blocks(VARIANTS[name])
    entering = [row.filters_in for row in rows]
    assert entering == [stem_filters(VARIANTS[name]), *(row.filters_out for row in rows[:-1])]
    assert math.prod(row.stride for row in rows) == 16  # with the stem's 2: 32, Tan & Le 2019, table 1


# by hand from efficientnet_model.py, round_filters: to the nearest 8, half up; up again if below 0.9 of the product
@pytest.mark.parametrize(
    ("filters", "width", "expected"),
    [
        (16, 1.2, 24),  # 19.2: nearest is 16, below 17.28. B3's first stage; google/automl's own test pins 16, by a bug
        (32, 1.1, 32),  # 35.2: nearest is 32, above 31.68
        (80, 1.1, 88),
        (40, 0.25, 16),  # 10: nearest is 8, below 9
        (36, 1.0, 40),  # half of 8 goes up
        (1280, 1.0, 1280),
        (8, 0.1, 8),  # never below 8
    ],
)
def test_filters_are_rounded_to_multiples_of_eight(filters, width, expected):
    assert round_filters(filters, width) == expected


def test_stages_are_those_of_table_1():
    # Tan & Le 2019, table 1; the strides, which it shifts by a row: the official code, _DEFAULT_BLOCKS_ARGS
    assert [stage.kernel for stage in STAGES] == [3, 3, 5, 3, 5, 5, 3]
    assert [stage.stride for stage in STAGES] == [1, 2, 2, 2, 1, 2, 1]
    assert [stage.expansion for stage in STAGES] == [1, 6, 6, 6, 6, 6, 6]


def test_mean_and_deviation_are_imagenets():
    # torchvision.transforms, 0 to 1: mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]
    assert MEAN_RGB == pytest.approx((123.675, 116.28, 103.53))
    assert STDDEV_RGB == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-l2"])
def test_official_names_are_returned_unchanged(name):
    assert official_name(name) == name


@pytest.mark.parametrize(
    ("timm", "official"),
    [
        ("tf_efficientnet_b0", "efficientnet-b0"),
        ("tf_efficientnet_l2", "efficientnet-l2"),
        ("tf_efficientnet_cc_b0_4e", "efficientnet-condconv-b0-4e"),
        ("tf_efficientnet_cc_b1_8e", "efficientnet-condconv-b1-8e"),
        ("efficientnet-condconv-b0-8e-depth", "efficientnet-condconv-b1-8e"),  # the official code's
        ("efficientnet_b1_pruned", "efficientnet-b1-pruned"),
        ("tf_efficientnet_lite4", "efficientnet-lite4"),
        ("tf_efficientnet_es", "efficientnet-edgetpu-S"),
        ("efficientnet_b0", "efficientnet-b0-torch"),
    ],
)
def test_timms_names_are_known(timm, official):
    assert official_name(timm) == official
    assert find_variant(timm) is VARIANTS[official]


@pytest.mark.parametrize("name", ["efficientnet-b9", "efficientnet_b5", "tf_efficientnet_b9", "EfficientNetB0", ""])
def test_an_unknown_name_raises_an_error_that_lists_the_known_names(name):
    for find in (official_name, find_variant):
        with pytest.raises(ValueError, match=f"Unknown model '{name}'.* Choose one of: efficientnet-b0, .*-l2, "):
            find(name)


@pytest.mark.parametrize("forbid", [False, True], ids=["installed", "absent"])
def test_tables_and_profiles_import_neither_tensorflow_nor_keras(run_python, forbid):
    assert run_python(IMPORT_WITHOUT.format(forbid=forbid)).strip() == "[]"
