"""Tables and figures of an evaluation; expected numbers come from scikit-learn or are counted by hand."""

import csv

import numpy as np
import pytest
import sklearn.metrics
from matplotlib.image import imread

from keras_efficientnet.evaluation.metrics import Outcomes
from keras_efficientnet.evaluation.reports import draw_calibration, draw_confusion_matrix, write_reports

NAMES = ("tench", "crane", 'a "quoted", name', "crane", "no image of it")


def outcomes(labels, predicted, confidences=None):
    return Outcomes(
        labels=np.array(labels),
        predicted=np.array(predicted),
        in_top_5=np.ones(len(labels), bool),
        confidences=np.full(len(labels), 0.75) if confidences is None else np.array(confidences),
        losses=np.zeros(len(labels)),
    )


def random_outcomes(classes, images=400):
    random = np.random.RandomState(1)
    labels = random.randint(0, classes, images)
    return outcomes(labels, np.where(random.rand(images) < 0.6, labels, random.randint(0, classes, images)))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """By hand: correct are 2 of 3 (tench), 0 of 2 (the first crane), 1 of 1 (the quoted name), 1 of 2."""
    folder = tmp_path_factory.mktemp("reports") / "evaluation"
    write_reports(folder, outcomes([0, 0, 0, 1, 1, 2, 3, 3], [0, 0, 2, 3, 3, 2, 3, 0]), NAMES)
    return folder


def test_reports_are_these_files_and_nothing_else(written):
    names = {"per_class.csv", "confusions.csv", "confusion_matrix.csv", "confusion_matrix.png", "calibration.png"}
    assert {path.name for path in written.iterdir()} == names


def test_worst_class_is_first_and_a_class_without_images_last(written):
    assert rows_of(written / "per_class.csv") == [
        ["class", "name", "images", "hits", "top_1_accuracy"],
        ["1", "crane", "2", "0", "0.000000"],
        ["3", "crane", "2", "1", "0.500000"],
        ["0", "tench", "3", "2", "0.666667"],
        ["2", 'a "quoted", name', "1", "1", "1.000000"],
        ["4", "no image of it", "0", "0", ""],
    ]


def test_confusions_name_true_and_predicted_class(written):
    assert rows_of(written / "confusions.csv") == [
        ["true_class", "predicted_class", "images", "share_of_true_class"],
        ["crane", "crane", "2", "1.000000"],
        ["tench", 'a "quoted", name', "1", "0.333333"],
        ["crane", "tench", "1", "0.500000"],
    ]


def test_tables_equal_scikit_learn(tmp_path):
    found = random_outcomes(12)
    names = [f"class {number}" for number in range(12)]
    write_reports(tmp_path, found, names)
    header, *rows = rows_of(tmp_path / "confusion_matrix.csv")
    assert header[1:] == [row[0] for row in rows] == names
    expected = sklearn.metrics.confusion_matrix(found.labels, found.predicted)
    np.testing.assert_array_equal([[int(cell) for cell in row[1:]] for row in rows], expected)
    recall = sklearn.metrics.recall_score(found.labels, found.predicted, average=None)
    table = rows_of(tmp_path / "per_class.csv")[1:]
    assert [float(row[4]) for row in table] == sorted(float(row[4]) for row in table)
    assert {int(row[0]): float(row[4]) for row in table} == pytest.approx(dict(enumerate(recall)), abs=1e-6)


def test_cells_have_numbers_up_to_40_classes():
    def texts(classes):
        matrix = np.eye(classes, dtype="int64") * 7
        return [text.get_text() for text in draw_confusion_matrix(matrix, [""] * classes).axes[0].texts]

    assert texts(40) == ["7"] * 40
    assert texts(41) == []


def test_matrix_of_1000_classes_shows_its_diagonal(tmp_path):
    """1000 x 1000 cells, dark along the diagonal and white beside it; at most 100 pairs."""
    found = random_outcomes(1000, 20_000)
    write_reports(tmp_path, found, [str(number) for number in range(1000)])
    figure = draw_confusion_matrix(np.eye(1000, dtype="int64"), [""] * 1000)
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.eye(1000))
    pixels = imread(tmp_path / "confusion_matrix.png")[..., :3]
    assert pixels.shape[0] >= 1000 and pixels.min() < 0.6
    pairs = rows_of(tmp_path / "confusions.csv")[1:]
    assert len(pairs) == 100
    counts = [int(row[2]) for row in pairs]
    wrong = sklearn.metrics.confusion_matrix(found.labels, found.predicted) * (1 - np.eye(1000, dtype="int64"))
    assert counts == sorted(wrong.ravel(), reverse=True)[:100]


def test_reliability_diagram_has_the_accuracy_of_each_bin():
    """By hand: correct are three of four at 0.95, in the last bin, and one of two at 0.5, in (7/15, 8/15]."""
    found = outcomes([0] * 6, [0, 0, 0, 1, 0, 1], [0.95] * 4 + [0.5] * 2)
    axes, below = draw_calibration(found).axes
    bars = {round(bar.get_x() + bar.get_width() / 2, 4): bar.get_height() for bar in axes.patches}
    assert bars == {round(14.5 / 15, 4): 0.75, round(7.5 / 15, 4): 0.5}
    assert [bar.get_height() for bar in below.patches] == [0] * 7 + [2] + [0] * 6 + [4]
    # (4 * |0.95 - 0.75| + 2 * |0.5 - 0.5|) / 6
    assert axes.get_title() == "Expected calibration error 13.33 %"
