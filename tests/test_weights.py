import h5py
import keras
import numpy as np
import pytest
from support.reference import fill, reference_images

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights.readers.dispatch import open_weights

IMAGES = reference_images(2, 32, 32, seed=1)


@pytest.fixture(scope="module")
def source(tiny):
    return fill(models.make_model(tiny, classes=10))


@pytest.fixture(scope="module", params=["tiny.weights.h5", "tiny.keras"])
def file(request, source, tmp_path_factory):
    """The weights of `source` in a file of each kind."""
    path = tmp_path_factory.mktemp("weights") / request.param
    (source.save_weights if request.param.endswith(".h5") else source.save)(path)
    return path


@pytest.fixture(scope="module")
def fresh(tiny):
    model = models.make_model(tiny, classes=10)
    return model, model.get_weights()


@pytest.fixture
def model(fresh):
    """A network with random weights; built once, for all tests."""
    fresh[0].set_weights(fresh[1])
    return fresh[0]


def assert_untouched(model, source, message):
    """Loading must fail with the message and leave every weight as it was."""
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        load_weights(model, source)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def assert_equal_weights(model, source):
    for layer in model.layers:
        for new, expected in zip(layer.get_weights(), source.get_layer(layer.name).get_weights(), strict=True):
            np.testing.assert_array_equal(new, expected, err_msg=layer.name)


def test_a_file_fills_every_weight(source, file, model):
    load_weights(model, file)
    assert_equal_weights(model, source)
    np.testing.assert_array_equal(model(IMAGES), source(IMAGES))


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_builder_accepts_the_path_as_weights(tiny, source, file, kind):
    assert_equal_weights(models.make_model(tiny, classes=10, weights=kind(file)), source)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_bfloat16_weights_are_restored(tiny, set_policy, tmp_path, ending):
    """Keras writes bfloat16, which HDF5 lacks, as pairs of bytes."""
    set_policy("bfloat16")
    source = fill(models.make_model(tiny, classes=10))
    source.save_weights(tmp_path / "x.weights.h5") if ending == ".weights.h5" else source.save(tmp_path / "x.keras")
    loaded = models.make_model(tiny, classes=10, weights=tmp_path / f"x{ending}")
    for ours, theirs in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_holds_each_array_once_by_layer(source, file):
    with open_weights(file) as arrays:
        assert sorted(arrays) == sorted(weight.path for weight in source.weights)


def test_a_network_without_its_top_loads_the_other_layers(tiny, source, file):
    model = models.make_model(tiny, include_top=False, pooling="avg", weights=file)
    assert_equal_weights(model, source)
    assert "predictions" not in [layer.name for layer in model.layers]


def test_weights_do_not_depend_on_the_rest_of_the_network(tiny, source, file):
    arguments = {"include_preprocessing": False, "drop_path_rate": 0, "dropout_rate": 0, "input_shape": (64, None, 3)}
    model = models.make_model(tiny, classes=10, weights=file, **arguments)
    assert_equal_weights(model, source)


def test_other_classes_raise_an_error_that_says_what_to_do(tiny, file):
    message = r"predictions/kernel is \[320, 7\], the file has \[320, 10\]. .* classes=10, or with in"
    assert_untouched(models.make_model(tiny, classes=7), file, message)


def test_a_deeper_variant_raises_an_error_that_lists_the_missing_layers(tiny, file):
    model = models.make_model(tiny._replace(depth=1.0), classes=10)
    assert_untouched(
        model, file, r"does not match efficientnet. Missing: \['block2c_bn/beta', .*Check that the file is"
    )


def test_a_shallower_variant_raises_an_error_that_lists_the_unused_layers(tiny, file):
    model = models.make_model(tiny._replace(depth=0.2), classes=10)
    assert_untouched(model, file, r"Missing: \[\]. Unused: \['block2b_bn/beta', .*Check that the file is")


def test_a_wider_variant_raises_an_error_with_both_shapes(tiny, file):
    model = models.make_model(tiny._replace(width=0.5), classes=10)
    assert_untouched(model, file, r"stem_conv/kernel is \[3, 3, 3, 16\], the file has \[3, 3, 3, 8\]. Check that the f")


def test_a_file_without_its_top_does_not_load_into_a_network_with_a_top(tiny, model, tmp_path):
    models.make_model(tiny, include_top=False).save_weights(tmp_path / "notop.weights.h5")
    assert_untouched(
        model,
        tmp_path / "notop.weights.h5",
        r"Missing: \['predictions/bias', 'predictions/kernel'\]. Unused: \[\]. Build",
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_raises_a_clear_error(file, model, tmp_path, share):
    whole = file.read_bytes()
    path = tmp_path / file.name
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_untouched(model, path, f"{file.name} is not a complete .weights.h5 or .keras file of Keras 3")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 nor an archive"])
def test_another_kind_of_file_raises_a_clear_error(model, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert_untouched(model, path, "notes.txt is not a complete .weights.h5 or .keras file of Keras 3")


def test_a_damaged_archive_raises_a_clear_error(source, model, tmp_path):
    path = tmp_path / "tiny.keras"
    source.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_untouched(model, path, "tiny.keras is not a complete .weights.h5 or .keras file of Keras 3, nor .*CRC")


@pytest.mark.parametrize("name", ["optimizer.h5", "layers.h5"])
def test_an_hdf5_file_without_weights_raises_a_clear_error(model, tmp_path, name):
    with h5py.File(tmp_path / name, "w") as h5:
        h5["layers/dense/vars/0" if name == "layers.h5" else "vars/0"] = np.zeros(3)
    assert_untouched(model, tmp_path / name, f"{name} is not a complete .weights.h5 or .keras file of Keras 3")


def test_a_folder_without_weights_raises_a_clear_error(model, tmp_path):
    assert_untouched(model, tmp_path, "is a folder without a TensorFlow checkpoint, a run or a keras-hub preset in it")


def test_a_file_of_another_network_raises_an_error(model, tmp_path):
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    other.save_weights(tmp_path / "other.weights.h5")
    assert_untouched(model, tmp_path / "other.weights.h5", r"Unused: \['dense/bias', 'dense/kernel'\]")


def test_a_missing_file_raises_an_error_that_lists_the_valid_kinds(tiny):
    with pytest.raises(FileNotFoundError, match="or .pth file. There is no file 'nowhere.weights.h5'"):
        models.make_model(tiny, weights="nowhere.weights.h5")
