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
    assert list(VARIANTS) == list(COEFFICIENTS) == list(STAGE_SHAPES)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficients_are_the_published_ones(name):
    variant = VARIANTS[name]
    assert (*variant, stem_filters(variant), head_filters(variant)) == COEFFICIENTS[name]


@pytest.mark.parametrize("name", STAGE_SHAPES)
def test_stages_have_the_published_channels_and_repeats(name):
    rows = blocks(VARIANTS[name])
    stages = [[row for row in rows if row.name.startswith(f"block{number}")] for number in range(1, 8)]
    channels, repeats, count = STAGE_SHAPES[name]
    assert [stage[-1].filters_out for stage in stages] == channels
    assert [len(stage) for stage in stages] == repeats
    assert len(rows) == count


def test_blocks_of_b0_are_the_published_ones():
    assert [tuple(row)[1:] for row in blocks(VARIANTS["efficientnet-b0"])] == B0_BLOCKS


def test_only_the_first_stage_does_not_widen():
    rows = blocks(VARIANTS["efficientnet-b7"])
    assert [row.name for row in rows if not row.widens] == ["block1a", "block1b", "block1c", "block1d"]


def test_shortcuts_are_where_the_official_code_has_them(golden):
    for name, expected in golden("survival")["models"].items():
        rows = blocks(VARIANTS[name])
        assert [index for index, row in enumerate(rows) if row.skip] == expected["shortcuts"], name


@pytest.mark.parametrize("name", VARIANTS)
def test_each_block_takes_what_the_one_before_puts_out(name):
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
def test_official_names_stand_for_themselves(name):
    assert official_name(name) == name


@pytest.mark.parametrize(
    ("timm", "official"), [("tf_efficientnet_b0", "efficientnet-b0"), ("tf_efficientnet_l2", "efficientnet-l2")]
)
def test_timms_names_are_known(timm, official):
    assert official_name(timm) == official
    assert find_variant(timm) is VARIANTS[official]


@pytest.mark.parametrize("name", ["efficientnet-b9", "efficientnet_b0", "tf_efficientnet_b9", "EfficientNetB0", ""])
def test_an_unknown_name_is_an_error_that_lists_the_known(name):
    for find in (official_name, find_variant):
        with pytest.raises(ValueError, match=f"Unknown model '{name}'. Choose one of: efficientnet-b0, .*-l2"):
            find(name)


@pytest.mark.parametrize("forbid", [False, True], ids=["installed", "absent"])
def test_tables_and_profiles_import_neither_tensorflow_nor_keras(run_python, forbid):
    assert run_python(IMPORT_WITHOUT.format(forbid=forbid)).strip() == "[]"
