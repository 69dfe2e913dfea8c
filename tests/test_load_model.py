"""`load_model` on files that are damaged, of another kind, or made to take all memory: one true sentence, quickly."""

import json
import shutil
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_efficientnet import load_model

WEIGHTS = "model.weights.h5"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A complete file of a small network; `load_model` loads any."""
    path = tmp_path_factory.mktemp("good") / "good.keras"
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(features))).save(path)
    return path


def rewrite(good, path, change, compression=zipfile.ZIP_STORED):
    """Writes a copy of the file with changed members: `change` returns the content of one, or None to leave it out."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return path


def edit_weights(good, path, edit):
    def change(name, content):
        if name != WEIGHTS:
            return content
        file = path.with_name("weights.h5")
        file.write_bytes(content)
        with h5py.File(file, "a") as h5:
            edit(h5)
        return file.read_bytes()

    return rewrite(good, path, change)


def assert_refused(path, reason):
    start = time.process_time()
    with pytest.raises(ValueError, match=reason) as caught:
        load_model(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message and "File not found" not in message
    assert "Example error message" not in message and len(message) < 500 + len(str(path))
    assert time.process_time() - start < 2


def test_the_complete_file_loads(good):
    assert load_model(good).output_shape == (None, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"hello", "it is cut off, or neither a zip archive nor HDF5"), (None, "it is cut off")],
)
def test_a_file_of_another_kind_is_not_called_missing(good, tmp_path, content, reason):
    path = tmp_path / "bad.keras"
    path.write_bytes(good.read_bytes()[:-100] if content is None else content)
    assert_refused(path, f"bad.keras is not a complete .keras file of a known network: {reason}")


def test_weights_alone_are_not_called_missing(good, tmp_path):
    load_model(good).save_weights(tmp_path / "x.weights.h5")
    assert_refused(tmp_path / "x.weights.h5", "it holds weights alone: build their network and call load_weights")
    shutil.copy(tmp_path / "x.weights.h5", tmp_path / "x.keras")
    assert_refused(tmp_path / "x.keras", "it holds weights alone")


@pytest.mark.parametrize("name", ["model", "model.zip", "model.KERAS"])
def test_a_file_with_another_ending_is_named(good, tmp_path, name):
    shutil.copy(good, tmp_path / name)
    assert_refused(tmp_path / name, "The name of a model must end in .keras. Received: .*. Rename it")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_without_one_of_its_parts_is_refused(good, tmp_path, name):
    path = rewrite(good, tmp_path / "bad.keras", lambda member, content: None if member == name else content)
    assert_refused(path, f"it has no {name}")


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, before its error
def test_a_layer_without_its_weights_is_named(good, tmp_path):
    def remove(h5):
        del h5["layers/conv2d/vars/0"]

    assert_refused(edit_weights(good, tmp_path / "bad.keras", remove), "name=conv.*Layer 'conv' expected 2 variables")


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, before its error
def test_weights_of_another_shape_name_their_layer(good, tmp_path):
    def replace(h5):
        del h5["layers/conv2d/vars/0"]
        h5["layers/conv2d/vars/0"] = np.zeros((2, 2), "float32")

    assert_refused(edit_weights(good, tmp_path / "bad.keras", replace), r"name=conv.*value.shape=\(2, 2\)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(good, tmp_path, value):
    def spoil(h5):
        h5["layers/dense/vars/1"][0] = value

    kind = "NaN" if np.isnan(value) else "infinite"
    path = edit_weights(good, tmp_path / "bad.keras", spoil)
    assert_refused(path, rf"bad.keras has values that no network can use: dense/bias \(1 {kind}, of 2 values\)")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "metadata.json", "assets/vocabulary.txt"])
def test_a_file_that_would_unpack_to_take_all_memory_is_refused(good, tmp_path, name):
    """Whatever else is in it: 100 kB of zeros in the archive are 100 MB in memory."""
    path = tmp_path / "bomb.keras"
    rewrite(good, path, lambda member, content: None if member == name else content)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("noise", np.random.default_rng(0).bytes(10**6))
        with archive.open(name, "w") as member:
            for _ in range(100):
                member.write(bytes(10**6))
    assert_refused(path, f"its {'weights' if name == WEIGHTS else name} would unpack to over 20 times its size")


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"fillvalue": 1.0}])
def test_an_array_that_would_unpack_to_take_all_memory_is_refused(good, tmp_path, options):
    def replace(h5):
        del h5["layers/conv2d/vars/0"]
        chunks = {"chunks": (10**6,)} if "compression" in options else {}
        h5["layers/conv2d/vars"].create_dataset("0", (10**9,), "float32", **options, **chunks)

    path = edit_weights(good, tmp_path / "bomb.keras", replace)
    assert_refused(path, "its /layers/conv2d/vars/0 would unpack to over 20 times its size")


def test_numbers_in_another_file_are_not_read(good, tmp_path):
    (tmp_path / "secret").write_bytes(b"A" * 432)

    def replace(h5):
        del h5["layers/conv2d/vars/0"]
        h5["layers/conv2d/vars"].create_dataset(
            "0", (3, 3, 3, 4), "float32", external=[(str(tmp_path / "secret"), 0, 432)]
        )

    assert_refused(edit_weights(good, tmp_path / "bad.keras", replace), "has its numbers in another file")


def test_a_configuration_that_is_not_complete_says_what_it_lacks(good, tmp_path):
    def cut(name, content):
        return json.dumps({"config": {}}) if name == "config.json" else content

    assert_refused(
        rewrite(good, tmp_path / "bad.keras", cut), "not a complete .keras file of a known network: .*[a-z]{4}"
    )
