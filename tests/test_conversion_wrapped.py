"""Networks with a head of the user's own, inside another model, or behind prefixes, in every kind of file."""

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from support.reference import fill
from support.weight_files import save_checkpoint, write_state

from keras_efficientnet import load_weights, models
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.readers.hdf5 import open_h5
from keras_efficientnet.weights.registry import to_timm

layers = keras.layers


@pytest.fixture(scope="module")
def backbone(tiny):
    return fill(models.make_model(tiny, include_top=False, pooling="avg", name="tiny"))


@pytest.fixture
def fresh(tiny):
    model = models.make_model(tiny, include_top=False, pooling="avg", name="tiny")
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    return model


def assert_equal(model, backbone):
    for ours, expected in zip(model.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, backbone):
        super().__init__()
        self.encoder, self.head = backbone, layers.Dense(4)

    def call(self, images):
        return self.head(self.encoder(images))

    def get_config(self):
        return {}


def with_head(backbone):
    hidden = layers.Dense(6, "relu", name="hidden")(layers.Dropout(0.2)(backbone.output))
    return keras.Model(backbone.input, layers.Dense(4, name="classes")(hidden))


def nest(backbone):
    return keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(), backbone, layers.Dense(4)])


def nest_twice(backbone):
    inner = keras.Sequential([backbone, layers.Dense(6)], name="inner")
    return keras.Sequential([keras.Input((32, 32, 3)), inner, layers.Dense(4, name="predictions")])


def subclass(backbone):
    model = Subclassed(backbone)
    model(np.zeros((1, 32, 32, 3)))
    return model


def repeat(backbone):
    frames = keras.Input((2, 32, 32, 3))
    return keras.Model(frames, layers.Dense(4)(layers.TimeDistributed(backbone)(frames)))


@pytest.mark.parametrize("make", [with_head, nest, nest_twice, subclass, repeat])
@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_a_network_with_a_head_or_inside_a_model_is_found(backbone, fresh, tmp_path, make, ending):
    model, path = make(backbone), tmp_path / f"tuned{ending}"
    model.compile("sgd", "mse")
    (model.save_weights if ending == ".weights.h5" else model.save)(path)
    with pytest.warns(UserWarning, match=r"not of an EfficientNet, as of a head of your own. .* left out: .*bias'"):
        load_weights(fresh, path)
    assert_equal(fresh, backbone)


def test_a_head_of_your_own_is_named_in_the_warning(backbone, fresh, tmp_path):
    with_head(backbone).save_weights(tmp_path / "x.weights.h5")
    names = r"\['classes/bias', 'classes/kernel', 'hidden/bias', 'hidden/kernel'\]"
    with pytest.warns(UserWarning, match=names):
        load_weights(fresh, tmp_path / "x.weights.h5")


# DataParallel, torch.compile, Lightning, a backbone in a detector, fastai
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "backbone.", "net.encoder.", "0.model."])
@pytest.mark.parametrize("ending", [".safetensors", ".pth", ""])
def test_a_prefix_before_all_names_is_removed(backbone, fresh, tmp_path, prefix, ending):
    if ending:
        arrays = {f"{prefix}{name}": np.ascontiguousarray(array) for name, array in to_timm(backbone).items()}
        write = write_state if ending == ".pth" else lambda path, state: safetensors.numpy.save_file(state, path)
        path = tmp_path / f"x{ending}"
        write(path, arrays)
    else:
        origin, prefix = registry.ORIGINS["tf1"], prefix.replace(".", "/")
        path = save_checkpoint(tmp_path, {f"{prefix}{pair.key}": array for pair, array in extract(backbone, origin)})
    load_weights(fresh, path)
    assert_equal(fresh, backbone)


@pytest.mark.filterwarnings("ignore:.*trained with symmetric padding")
@pytest.mark.parametrize("name", ["timm", "torchvision", "lukemelas", "tf1"])
def test_prefix_and_head_are_left_out_for_every_origin(backbone, fresh, name):
    origin = registry.ORIGINS[name]
    arrays = {f"encoder{origin.separator}{pair.key}": array for pair, array in extract(backbone, origin)}
    arrays |= {f"decoder{origin.separator}kernel": np.zeros(3, "float32")}
    with pytest.warns(UserWarning, match=r"left out: \['decoder.kernel'\]"):
        registry.convert(fresh, arrays, origin=name)
    assert_equal(fresh, backbone)


def test_a_file_with_two_networks_is_refused(backbone, fresh):
    arrays = to_timm(backbone)
    double = {f"{prefix}.{name}": array for name, array in arrays.items() for prefix in ("teacher", "student")}
    message = "holds several networks: teacher.conv_stem.weight and student.conv_stem.weight. Save one of them alone"
    with pytest.raises(ValueError, match=message):
        registry.convert(fresh, double)


def test_parts_of_another_network_are_no_head(backbone, fresh):
    arrays = to_timm(backbone)
    arrays["blocks.1.9.conv_pw.weight"] = arrays["blocks.0.0.conv_pw.weight"]
    with pytest.raises(ValueError, match=r"Missing: \[\]. Unused: \['blocks.1.9.conv_pw.weight'\]. Check that the"):
        registry.convert(fresh, arrays)


def test_the_hint_for_a_foreign_head_is_true(tiny, backbone, tmp_path):
    """Without its top the network loads; training keeps the classifier instead, as --weights must."""
    nest(backbone).save(tmp_path / "x.keras")
    model = models.make_model(tiny, classes=4)
    with pytest.raises(ValueError, match="Missing: .*predictions/kernel.* Build the model with include_top=False"):
        load_weights(model, tmp_path / "x.keras")
    before = model.get_layer("predictions").get_weights()
    with pytest.warns(UserWarning) as caught:
        load_weights(model, tmp_path / "x.keras", other_classes=True)
    assert "has no classifier for efficientnet: its classifier is left unchanged. Train it" in str(caught[0].message)
    np.testing.assert_array_equal(model.get_layer("predictions").get_weights()[0], before[0])
    assert_equal(keras.Model(model.input, model.get_layer("avg_pool").output), backbone)


def test_groups_that_hold_each_other_are_refused(tmp_path):
    """HDF5 allows cycles: two groups in each other, sixty deep, are 2**60 paths."""
    with h5py.File(tmp_path / "x.weights.h5", "w") as h5:
        for number in range(60):
            h5.require_group(f"{number}")
        for number in range(59):
            h5[f"{number}/a"] = h5[f"{number}/b"] = h5[f"{number + 1}"]
    with (
        pytest.raises(ValueError, match="is also another group, which Keras never writes"),
        open_h5(tmp_path / "x.weights.h5"),
    ):
        pass
