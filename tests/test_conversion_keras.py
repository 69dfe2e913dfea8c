"""Weights files of keras.applications (and back), keras-hub and Keras 2, and run folders."""

import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDEN
from support.originals import assert_filled, make, read_rows, slow_if_large
from support.reference import fill, reference_images

from keras_efficientnet import load_weights, models
from keras_efficientnet.recipes import make_config
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.training.state import TrainState, make_variant
from keras_efficientnet.weights.engine import extract
from keras_efficientnet.weights.origins.keras import KERAS_HUB
from keras_efficientnet.weights.registry import to_keras_applications

pytestmark = pytest.mark.usefixtures("zero_kernels")
SIZES = [slow_if_large(f"b{number}", number) for number in range(8)]
SHAPE = (64, 64, 3)


def layers_of_keras_3(number):
    """Returns {dataset: (shape, layer)} of the original file."""
    rows = read_rows("keras_applications", f"weights_h5_efficientnetb{number}")
    return {dataset: (tuple(shape), layer) for dataset, shape, layer in rows}


def layers_of_keras_2(number):
    """Returns [layer, [(variable, shape)]] of the original file."""
    return read_rows("keras_applications", f"legacy_h5_efficientnetb{number}")


def write_constants(path, number, layout):
    """Writes a file with the original layout, each array with one distinct number; returns those of the network.

    The files are small: HDF5 does not write arrays that only have a fill value.
    """
    numbers = []

    def create(group, name, shape, layer):
        numbers.append((len(numbers) + 1, layer))
        group.create_dataset(name, shape, "float32", fillvalue=len(numbers))

    with h5py.File(path, "w") as h5:
        if layout == "keras 3":
            for dataset, (shape, layer) in layers_of_keras_3(number).items():
                create(h5, dataset, shape, layer)
                h5[dataset.rpartition("/")[0]].attrs["name"] = layer
        else:
            layers = layers_of_keras_2(number)
            h5.attrs["layer_names"] = [layer.encode() for layer, _ in layers]
            for layer, variables in layers:
                group = h5.create_group(layer)
                group.attrs["weight_names"] = [name.encode() for name, _ in variables]
                for name, shape in variables:
                    create(group, name, tuple(shape), layer)
    return {number for number, layer in numbers if layer != "normalization"}


@pytest.mark.parametrize("layout", ["keras 3", "keras 2"])
@pytest.mark.parametrize("number", SIZES)
def test_every_array_of_keras_applications_fills_one_variable(number, layout, tmp_path):
    path = tmp_path / ("b.weights.h5" if layout == "keras 3" else "b.h5")
    wanted = write_constants(path, number, layout)
    model = make(f"efficientnet-b{number}", weights=path)
    assert_filled(model, wanted)


@pytest.mark.parametrize("number", SIZES)
def test_files_for_keras_applications_have_its_own_layout(number, tmp_path):
    model = make(f"efficientnet-b{number}")
    to_keras_applications(model, tmp_path / "b.weights.h5")
    with h5py.File(tmp_path / "b.weights.h5") as h5:
        found = {}
        h5.visititems(
            lambda name, entry: (
                found.update({name: (entry.shape, entry.parent.attrs["name"])})
                if isinstance(entry, h5py.Dataset)
                else None
            )
        )
    assert found == layers_of_keras_3(number)
    to_keras_applications(model, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as h5:
        rows = [
            [layer, [[name, list(h5[layer][name].shape)] for name in h5[layer].attrs["weight_names"]]]
            for layer in h5.attrs["layer_names"]
        ]
    as_text = json.loads(json.dumps(rows, default=bytes.decode))
    assert as_text == [row for row in layers_of_keras_2(number) if row[1]]


def theirs(**arguments):
    return keras.applications.EfficientNetB0(input_shape=SHAPE, classifier_activation=None, **arguments)


def write_keras_2(model, path):
    """Writes the Keras 2 format, as keras/src/legacy/saving/legacy_h5_format.py still does."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as h5:
        legacy_h5_format.save_weights_to_hdf5_group(h5, model)


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["b0.weights.h5", "b0.h5", "b0.keras"])
def test_a_file_of_keras_applications_restores_its_logits(name, tmp_path):
    """Without published weights, the network of keras.applications only divides pixels by 255."""
    original = fill(theirs(weights=None))
    if name == "b0.h5":
        write_keras_2(original, tmp_path / name)
    else:
        (original.save if name.endswith(".keras") else original.save_weights)(tmp_path / name)
    ours = make("efficientnet-b0", weights=tmp_path / name)
    images = reference_images(2, 64, 64, seed=1)
    assert_same(ours(images / np.float32(255), training=False), original(images, training=False))


@pytest.mark.parametrize("name", ["notop.weights.h5", "notop.h5"])
def test_a_file_without_the_top_loads_into_a_network_without_a_top(name, tmp_path):
    original = fill(theirs(weights=None, include_top=False))
    (write_keras_2 if name == "notop.h5" else keras.Model.save_weights)(original, tmp_path / name)
    ours = models.EfficientNetB0(include_top=False, include_preprocessing=False, weights=tmp_path / name)
    images = reference_images(1, 64, 64, seed=1)
    assert_same(ours(images / np.float32(255), training=False), original(images, training=False))
    with pytest.raises(ValueError, match="Missing: .*predictions/kernel.* Build the model with include_top=False"):
        make("efficientnet-b0", weights=tmp_path / name)


@pytest.mark.parametrize(("name", "preprocessing"), [("back.weights.h5", True), ("back.h5", False)])
def test_keras_applications_loads_our_weights(name, preprocessing, tmp_path):
    ours = fill(make("efficientnet-b0", include_preprocessing=preprocessing))
    to_keras_applications(ours, tmp_path / name)
    images = reference_images(2, 64, 64, seed=1)
    expected = ours(images, training=False)
    assert_same(theirs(weights=str(tmp_path / name))(images, training=False), expected)
    loaded = theirs(weights=None)
    loaded.load_weights(tmp_path / name)
    assert_same(loaded(images, training=False), expected)
    assert_same(make("efficientnet-b0", include_preprocessing=preprocessing, weights=tmp_path / name)(images), expected)


def test_keras_applications_loads_our_network_without_its_top(tmp_path):
    ours = fill(models.EfficientNetB0(include_top=False))
    to_keras_applications(ours, tmp_path / "notop.h5")
    images = reference_images(1, 64, 64, seed=1)
    expected = ours(images, training=False)
    assert_same(theirs(weights=str(tmp_path / "notop.h5"), include_top=False)(images, training=False), expected)


@pytest.mark.parametrize("name", ["efficientnet-b0-torch", "efficientnet-lite0", "efficientnet-condconv-b0-4e"])
def test_networks_that_keras_applications_lacks_are_not_written(name, tmp_path):
    model = make(name)
    with pytest.raises(
        ValueError, match="which is not part of an EfficientNet of keras.ap|it has the original B0 to B7"
    ):
        to_keras_applications(model, tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="must end in .weights.h5 or .h5. Received: 'x.keras'"):
        to_keras_applications(model, "x.keras")


def test_a_network_with_symmetric_padding_is_not_written(tiny, tmp_path):
    """Even with the original epsilon, as torchvision's B5 to B7 have."""
    with pytest.raises(
        ValueError, match="keras.applications has no network like efficientnet: it has the original B0 to"
    ):
        to_keras_applications(models.make_model(tiny._replace(padding="symmetric")), tmp_path / "x.weights.h5")


def write_hub(folder, model):
    """Writes a preset folder like keras-hub 0.32: backbone and classifier in separate files."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    counts = {}
    with h5py.File(folder / "model.weights.h5", "w") as backbone, h5py.File(folder / "task.weights.h5", "w") as task:
        for pair, array in extract(model, KERAS_HUB):
            layer = pair.key.rpartition("/")[0]
            group = (task if layer == "predictions" else backbone).require_group(f"layers/{layer}_of_a_class/vars")
            group.attrs["name"] = layer
            counts[layer] = counts.get(layer, -1) + 1
            group[str(counts[layer])] = array
    return folder


def test_a_keras_hub_preset_loads_into_a_symmetric_network(tiny, tmp_path):
    row = tiny._replace(padding="symmetric", epsilon=1e-5)
    source = fill(models.make_model(row, classes=10))
    write_hub(tmp_path / "preset", source)
    loaded = models.make_model(row, classes=10, weights=tmp_path / "preset")
    for ours, expected in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(ValueError, match="weights of keras-hub, trained with symmetric padding"):
        models.make_model(tiny, classes=10, weights=tmp_path / "preset")


@pytest.mark.parametrize("name", ["model_weights", "layers", "layers/a/vars"])
def test_a_link_is_not_followed(tiny, tmp_path, name):
    """Not even to look at its target: opening a pipe never returns."""
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "x.weights.h5", "w") as h5:
        h5[name] = h5py.ExternalLink(tmp_path / "pipe", "x")
    with pytest.raises(ValueError, match=f"{name.rpartition('/')[2]} in it is a link"):
        load_weights(models.make_model(tiny, classes=10), tmp_path / "x.weights.h5")


@pytest.mark.parametrize("kind", ["external", "link", "soft", "virtual"])
def test_numbers_in_another_file_are_not_read(tiny, tmp_path, kind):
    """HDF5 would read any file as numbers, or wait for a pipe forever."""
    model = models.make_model(tiny, classes=10)
    model.save_weights(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.ones((3, 3, 3, 8), "float32")
    with h5py.File(tmp_path / "x.weights.h5", "a") as h5:
        stem = h5["layers/conv2d/vars"]
        del stem["0"]
        if kind == "external":
            (tmp_path / "secret").write_bytes(b"A" * 864)
            stem.create_dataset("0", (3, 3, 3, 8), "float32", external=[(str(tmp_path / "secret"), 0, 864)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 8), "float32")
            layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "x", (3, 3, 3, 8))
            stem.create_virtual_dataset("0", layout)
        else:
            link = h5py.ExternalLink(tmp_path / "other.h5", "x") if kind == "link" else h5py.SoftLink("/layers")
            stem["0"] = link
    before = model.get_weights()
    with pytest.raises(ValueError, match="0 in it (is a link|has its numbers in another file)"):
        load_weights(model, tmp_path / "x.weights.h5")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_keras_file_that_would_unpack_to_fill_the_disk_is_refused(tiny, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(10**7))
    with pytest.raises(ValueError, match="its weights would unpack to over 20 times its size"):
        load_weights(models.make_model(tiny, classes=10), tmp_path / "bomb.keras")


def test_a_file_from_before_keras_3_6_raises_a_clear_error(tiny, tmp_path):
    model = models.make_model(tiny, classes=10)
    model.save_weights(tmp_path / "old.weights.h5")
    with h5py.File(tmp_path / "old.weights.h5", "a") as h5:
        for group in h5["layers"].values():
            if "vars" in group:
                group["vars"].attrs.pop("name", None)
    with pytest.raises(ValueError, match="its layers have no names, as before Keras 3.6. Load it with Keras and save"):
        load_weights(model, tmp_path / "old.weights.h5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run at step 0 whose model holds zeros, its average ones, and its best checkpoint twos."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(model_dir=str(folder), width_coefficient=0.25, depth_coefficient=0.2, input_image_size=32)
    run = TrainState(config, make_variant(config), 100, tf.distribute.get_strategy())
    run.restore(RunFolder(folder))
    for number, model in enumerate((run.model, run.average)):
        model.set_weights([np.full_like(array, number) for array in model.get_weights()])
    run.save()
    run.average.set_weights([np.full_like(array, 2) for array in run.average.get_weights()])
    RunFolder(folder).keep_best(0, {"top_1_accuracy": 0.5}, run.write)
    return folder, models.make_model(make_variant(config), classes=config.num_label_classes)


def values(model):
    return {float(value) for array in model.get_weights() if array.dtype == "float32" for value in np.unique(array)}


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/ckpt-0"])
def test_a_run_loads_the_averaged_weights_of_its_latest_checkpoint(run, place):
    folder, model = run
    load_weights(model, folder / place)
    assert values(model) == {1}
    load_weights(model, folder / place, average=False)
    assert values(model) == {0}


def test_a_run_with_use_best_loads_its_best_checkpoint(run, tmp_path):
    folder, model = run
    options = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(options | {"use_best": True}))
    (tmp_path / "archive").symlink_to(folder / "archive")
    load_weights(model, tmp_path)
    assert values(model) == {2}


def test_a_run_without_checkpoints_loads_its_exported_model(run, tmp_path):
    folder, model = run
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="has neither a checkpoint nor a model.keras. Train it first"):
        load_weights(model, tmp_path)
    load_weights(model, folder)
    model.save(tmp_path / "model.keras")
    model.set_weights([0 * array for array in model.get_weights()])
    load_weights(model, tmp_path)
    assert values(model) == {1}


def test_every_network_of_keras_applications_has_golden_layouts():
    for layout in ("weights_h5", "legacy_h5"):
        assert len(list((GOLDEN / "keras_applications").glob(f"{layout}_efficientnetb[0-7].json.gz"))) == 8
