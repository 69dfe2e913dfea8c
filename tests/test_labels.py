"""One reader for class names, whoever wrote the file, and names that no file or picture could hold."""

import numpy as np
import pytest
from conftest import TINY
from matplotlib.figure import Figure
from support.images import jpeg, record, write_folder, write_records

from keras_efficientnet import export
from keras_efficientnet.datasets import make_datasets
from keras_efficientnet.datasets.shards import write_records as write_shards
from keras_efficientnet.evaluation.reports import draw_confusion_matrix
from keras_efficientnet.files import save_figure
from keras_efficientnet.labels import check_names, read_labels
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder

VALID = {
    "Unix": b"cat\nblack dog\n",
    "Windows": b"\xef\xbb\xbfcat\r\nblack dog\r\n",
    "Mac OS 9": b"cat\rblack dog",
    "blank end": b"cat\nblack dog\n\n \r\n\t\n",
}
INVALID = {
    "empty": (b"", "labels.txt is empty. It must have one class name per line"),
    "only a mark": (b"\xef\xbb\xbf\r\n", "labels.txt is empty"),
    "Latin-1": (b"cat\nm\xf6we\n", "labels.txt must be UTF-8 text"),
    "UTF-16": ("cat\ndog\n".encode("utf-16"), "labels.txt must be UTF-8 text"),
    "blank line": (b"cat\n\ndog\n", "labels.txt, line 2: a class name must be .* not blank.* Received: ''"),
    "NUL": (b"cat\ndog\0\n", "labels.txt, line 2: .* without control characters"),
    "form feed": (b"cat\x0cdog\n", "labels.txt, line 1: .* without control characters"),
    "line separator": ("cat\u2028dog\n".encode(), "labels.txt, line 1: .* without control characters"),
}


def all_readers(folder, content):
    """Yields calls that read a label file: of an export, of a run, and beside records."""
    (folder / "labels.txt").write_bytes(content)
    write_records(folder / "validation-00000-of-00001", [record(jpeg(), 1)])
    yield lambda: export.read_labels(folder / "labels.txt")
    yield lambda: RunFolder(folder).class_names(2)
    yield lambda: make_datasets(make_config(data_dir=str(folder), mode="eval"), TINY).class_names


@pytest.mark.parametrize("kind", VALID)
def test_label_files_of_every_system_are_read_alike(tmp_path, kind):
    for read in all_readers(tmp_path, VALID[kind]):
        assert list(read()) == ["cat", "black dog"]


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_label_file_is_named_by_every_reader(tmp_path, kind):
    content, message = INVALID[kind]
    for read in all_readers(tmp_path, content):
        with pytest.raises(ValueError, match=message):
            read()


def test_names_of_all_alphabets_are_valid(tmp_path):
    names = [
        "\u732b",
        "a $^$ b",
        "\\frac",
        "50 %",
        " spaced ",
        "tab\tbed",
        "\U0001f408",
        'q"uo,te',
        "..",
        "-1",
        "e\u0301",
    ]
    check_names(names, "test")
    RunFolder(tmp_path).write_labels(names)
    assert read_labels(tmp_path / "labels.txt") == names


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "bell\a", "\x85", "\u2029", " "])
def test_class_folder_whose_name_no_export_could_write_is_refused_before_a_run(tmp_path, name):
    write_folder(tmp_path / "data", ["ant", name], 10)
    for call in (
        lambda: make_datasets(make_config(data_dir=str(tmp_path / "data"), dataset="folder"), TINY),
        lambda: write_shards(str(tmp_path / "data"), str(tmp_path / "records"), processes=1),
    ):
        with pytest.raises(ValueError, match="data, class .: a class name must be one line of text.*Rename the class"):
            call()


@pytest.mark.parametrize("names", [["\ufeffcat", "dog"], ["dog", "\ufeffcat"]])
def test_a_name_that_starts_with_a_byte_order_mark_is_refused(tmp_path, names):
    """It would be lost when the class names of the run are read, and the run would refuse its own data."""
    write_folder(tmp_path / "data", names, 10)
    with pytest.raises(ValueError, match="class 2: a class name must not start with a byte-order mark.*Rename the cl"):
        make_datasets(make_config(data_dir=str(tmp_path / "data"), dataset="folder"), TINY)


def test_letters_that_the_font_lacks_are_one_warning(tmp_path, caplog):
    save_figure(draw_confusion_matrix(np.eye(2, dtype=int), ["\u6f22\u5b57", "\U0001f3f3"]), tmp_path / "matrix.png")
    assert caplog.messages == ["matrix.png has boxes in place of letters that Matplotlib's font lacks."]


def test_long_names_leave_room_for_the_picture(tmp_path):
    figure = draw_confusion_matrix(np.eye(2, dtype=int), ["a" * 200, "b" * 40])
    save_figure(figure, tmp_path / "matrix.png")  # Matplotlib warns if it has no room
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a" * 39 + "\u2026", "b" * 40]


def test_text_in_a_picture_is_no_formula(tmp_path):
    """Matplotlib cannot draw these as formulas. On a logarithmic axis its own formulas stay."""
    names = ("a $^$ b", "$\\nothing$", "$_")
    save_figure(draw_confusion_matrix(np.eye(3, dtype=int), names), tmp_path / "matrix.png")
    figure = Figure()
    axes = figure.subplots()
    axes.set(yscale="log", title=names[0], xlabel=names[1])
    axes.plot([1, 1000], label=names[0])
    axes.legend()
    figure.suptitle(names[1])
    save_figure(figure, tmp_path / "curve.png")
    assert all(label.get_parse_math() for label in axes.get_yticklabels())
