"""Conversion of weights files, with a tiny network and by the script with B0."""

import shlex

import h5py
import numpy as np
import pytest
from conftest import ROOT, TINY
from support.exports import run
from support.images import jpeg
from support.reference import fill, reference_images
from support.scripts import run_help

from keras_efficientnet import export, models
from keras_efficientnet.architectures import VARIANTS
from keras_efficientnet.export import weight_files
from keras_efficientnet.runs import RunFolder
from keras_efficientnet.weights import pretrained
from keras_efficientnet.weights.loading import resolve_weights

SCRIPT = ROOT / "export/convert_weights.py"
IMAGES = reference_images(2, 32, 32, seed=1)


@pytest.fixture(scope="module")
def model(tiny):
    return fill(models.make_model(tiny, classes=10))


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "tiny.safetensors"
    weight_files.write(model, path)
    return path


def assert_equal_weights(one, other):
    names = [layer.name for layer in other.layers if layer.weights]
    assert names == [layer.name for layer in one.layers if layer.weights]
    for name in names:
        pairs = zip(one.get_layer(name).get_weights(), other.get_layer(name).get_weights(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs), name


@pytest.mark.parametrize("ending", weight_files.WRITERS)
def test_every_kind_of_file_holds_every_array(tiny, model, tmp_path, ending):
    path = tmp_path / f"new{ending}"
    arrays = sum(len(layer.weights) for layer in model.layers)
    assert weight_files.write(model, path) == arrays
    found, mapped = weight_files.load(tiny, path)
    assert_equal_weights(found, model)
    assert (mapped.filled, mapped.adaptations) == (arrays, ())
    assert [*tmp_path.iterdir()] == [path]


def test_a_path_without_an_ending_becomes_a_saved_model(model, tmp_path):
    assert weight_files.write(model, tmp_path / "new") == 0
    np.testing.assert_allclose(export.load_saved_model(tmp_path / "new")(IMAGES), model(IMAGES), atol=1e-5)


@pytest.mark.parametrize("ending", weight_files.WRITERS)
def test_a_converted_file_has_the_usual_permissions(model, tmp_path, ending):
    (tmp_path / "usual").touch()
    weight_files.write(model, tmp_path / f"new{ending}")
    assert (tmp_path / f"new{ending}").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("ending", "left_out"),
    [(".safetensors", "num_batches_tracked"), (".h5", "normalization/"), (".weights.h5", None)],
)
def test_arrays_without_a_counterpart_are_listed(tiny, model, tmp_path, ending, left_out):
    weight_files.write(model, tmp_path / f"new{ending}")
    _, mapped = weight_files.load(tiny, tmp_path / f"new{ending}")
    assert bool(mapped.left_out) == bool(left_out)
    assert all(left_out in name for name in mapped.left_out)


def test_the_number_of_classes_is_read_from_the_file(tiny, file, tmp_path):
    assert weight_files.load(tiny, file)[0].output_shape == (None, 10)
    backbone = fill(models.make_model(tiny, include_top=False))
    weight_files.write(backbone, tmp_path / "notop.weights.h5")
    found, _ = weight_files.load(tiny, tmp_path / "notop.weights.h5")
    assert_equal_weights(found, backbone)


def test_a_file_cannot_claim_endless_classes(tiny, model, tmp_path):
    """An HDF5 array can have a large shape and hold no data."""
    model.save_weights(tmp_path / "x.weights.h5")
    with h5py.File(tmp_path / "x.weights.h5", "a") as h5:
        last = h5["layers/dense/vars"]
        assert last.attrs["name"] == "predictions"
        width = last["0"].shape[0]
        del last["0"], last["1"]
        last.create_dataset("0", (width, 10**9), "float32", chunks=(1, 1024))
        last.create_dataset("1", (10**9,), "float32", chunks=(1024,))
    with pytest.raises(ValueError, match="x.weights.h5 says it is for 1000000000 classes"):
        weight_files.load(tiny, tmp_path / "x.weights.h5")


def test_other_classes_keep_the_classifier_and_are_reported(tiny, file):
    found, mapped = weight_files.load(tiny, file, classes=7)
    assert found.output_shape == (None, 7)
    assert {"classifier.weight", "classifier.bias"} <= {*mapped.left_out}
    [adaptation] = mapped.adaptations
    assert "for 10 classes, efficientnet for 7: its classifier is left unchanged" in adaptation


def test_a_file_that_differs_from_the_model_is_removed(tiny, model, monkeypatch, tmp_path):
    path = tmp_path / "old.weights.h5"
    path.write_bytes(b"old")
    other = models.make_model(tiny, classes=10)
    monkeypatch.setitem(weight_files.WRITERS, ".weights.h5", lambda _, path: other.save_weights(path))
    with pytest.raises(RuntimeError, match="stem_conv/kernel in the file differs from efficientnet"):
        weight_files.write(model, path, overwrite=True)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("ending", weight_files.WRITERS)
def test_a_writer_that_fails_leaves_nothing(model, monkeypatch, tmp_path, ending):
    def fail(_, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setitem(weight_files.WRITERS, ending, fail)
    with pytest.raises(OSError, match="No space left"):
        weight_files.write(model, tmp_path / f"new{ending}")
    assert not [*tmp_path.iterdir()]


def test_an_unknown_ending_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"must end in .weights.h5, .keras, .safetensors, .h5, or have no ending"):
        weight_files.write(model, tmp_path / "new.pth")


def test_each_image_gets_five_predictions(tiny, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg())
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    network = fill(models.make_model(tiny))
    [prediction] = weight_files.identify(network, tiny, [str(tmp_path / "one.jpg")])
    names = {name for _, name in models.imagenet_classes()}
    assert len(prediction.top) == 5
    assert {name for name, _ in prediction.top} <= names
    with pytest.raises(ValueError, match=r"bad.jpg cannot be decoded as BMP"):
        weight_files.identify(network, tiny, [str(tmp_path / "bad.jpg")])
    with pytest.raises(ValueError, match="no classifier"):
        weight_files.identify(models.make_model(tiny, include_top=False), tiny, [str(tmp_path / "one.jpg")])


def test_class_names_are_those_of_imagenet_with_or_without_the_background():
    assert weight_files.class_names(1000)[0] == "tench"
    assert weight_files.class_names(1001)[:2] == ["background", "tench"]
    assert weight_files.class_names(3) == ["0", "1", "2"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converts B0 to timm and back by the script; returns the model, the folder and the output of both calls."""
    folder = tmp_path_factory.mktemp("script")
    b0 = fill(models.EfficientNetB0())
    b0.save_weights(folder / "a.weights.h5")
    for name, seed in (("one.jpg", 1), ("two.jpg", 2)):
        (folder / name).write_bytes(jpeg(250, 300, seed))
    common = ["--model_name=efficientnet-b0"]
    there = run(SCRIPT, *common, "--weights=a.weights.h5", "--output=b.safetensors", cwd=folder)
    verify = "--verify=one.jpg,two.jpg"
    back = run(SCRIPT, *common, "--weights=b.safetensors", "--output=c.weights.h5", verify, cwd=folder)
    return b0, folder, there, back


def test_the_script_converts_b0_to_timm_and_back(converted):
    b0, folder, there, back = converted
    assert (there[0], there[2], back[0], back[2]) == (0, [], 0, [])
    again = models.EfficientNetB0(weights=folder / "c.weights.h5")
    assert_equal_weights(again, b0)
    # stem, expansions, depthwise, projections, squeeze-and-excite with biases, top; batch norms; classifier
    arrays = 1 + 15 + 16 + 16 + 16 * 4 + 1 + 49 * 4 + 2
    assert there[1][0] == f"a.weights.h5: weights of ours; {arrays} arrays filled"
    assert there[1][1].endswith(f" MB; read back, all {arrays} arrays are equal")
    assert back[1][:2] == [
        f"b.safetensors: weights of timm; {arrays} arrays filled",
        "left out: 49 of *num_batches_tracked",
    ]


def test_the_script_prints_five_lines_for_each_image(converted):
    b0, folder, _, (_, lines, _) = converted
    assert (lines[3], lines[9], len(lines)) == ("one.jpg", "two.jpg", 15)
    pixels = weight_files.image_for_evaluation((folder / "two.jpg").read_bytes(), 224)
    [best] = models.decode_predictions(b0(pixels[None]))
    assert lines[10:] == [f"{i:4} {100 * share:7.2f}%  {name}" for i, (_, name, share) in enumerate(best, start=1)]


def test_published_weights_keep_their_normalisation(converted, monkeypatch, tmp_path):
    b0, folder, *_ = converted
    monkeypatch.setattr(pretrained, "fetch", lambda row: folder / {"ap_in1k": "b.safetensors"}[row.tag])
    done = weight_files.convert_file("advprop", "tf_efficientnet_b0", tmp_path / "new.keras")
    assert done.mapped.origin == "timm"
    found = export.load_model(tmp_path / "new.keras")
    assert_equal_weights(found, b0)
    assert found.get_layer("normalization").scale == pytest.approx([1 / 127.5] * 3)  # Xie et al. 2019's code: -1 to 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--weights=tiny.safetensors --output=tiny.safetensors", "tiny.safetensors exists. Choose another path"),
        ("--weights=bad.pth --output=new.keras", "bad.pth is not a complete .pth file"),
        (
            "--weights=absent.h5 --output=new.keras",
            "`weights` must be None, the name of published weights, or the path of",
        ),
        ("--weights=tiny.safetensors --output=new.keras", "tiny.safetensors does not match efficientnet-b0. "),
        ("--weights=tiny.safetensors --output=new.pth", "`output` must end in .weights.h5"),
        ("--weights=noisy --output=new", "There are no weights 'noisy' of efficientnet-b0. Choose one of: 'noisy-st"),
        ("--weights=tiny.safetensors --output=new --source=jax", "Unknown origin 'jax'. Choose one of: timm, "),
        ("--weights=tiny.safetensors --output=new --verify=absent.jpg", "No image files at 'absent.jpg'"),
    ],
)
def test_a_user_error_is_one_clear_line_and_leaves_no_file(file, tmp_path, options, message):
    (tmp_path / "tiny.safetensors").write_bytes(file.read_bytes())
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 and then no more")
    code, lines, errors = run(SCRIPT, "--model_name=efficientnet-b0", *options.split(), cwd=tmp_path)
    assert (code, lines, len(errors)) == (1, [], 1), errors
    assert errors[0].startswith(f"convert_weights.py: {message}")
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "bad.pth"}
    assert (tmp_path / "tiny.safetensors").read_bytes() == file.read_bytes()


def test_a_run_folder_states_its_width_and_depth(tmp_path):
    options = {
        "model_name": "efficientnet-b0",
        "width_coefficient": 0.25,
        "depth_coefficient": 0.5,
        "recipe": "official",
    }
    RunFolder(tmp_path).write_options(options)
    expected = VARIANTS["efficientnet-b0"]._replace(width=0.25, depth=0.5)
    assert resolve_weights(tmp_path).variant == resolve_weights(tmp_path / "model.keras").variant == expected


def test_a_run_folder_states_its_network_and_its_class_names(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "efficientnet-lite0", TINY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"model_name": "efficientnet-lite0"}')
    (tmp_path / "run/labels.txt").write_text("ant\nbee\ncow\n")
    models.make_model(TINY, classes=3).save(tmp_path / "run/model.keras")
    (tmp_path / "a.jpg").write_bytes(jpeg())
    done = weight_files.convert_file(
        str(tmp_path / "run"), None, tmp_path / "new.keras", images=str(tmp_path / "a.jpg")
    )
    assert {name for name, _ in done.predictions[0].top} == {"ant", "bee", "cow"}
    with pytest.raises(ValueError, match="new.keras does not say which network its weights are of. Give `model_name`."):
        weight_files.convert_file(str(tmp_path / "new.keras"), None, tmp_path / "newer.keras")


def test_the_example_in_the_help_runs_as_printed(tmp_path):
    (tmp_path / "export").symlink_to(ROOT / "export")
    (tmp_path / "runs/efficientnet-b0").mkdir(parents=True)
    (tmp_path / "runs/efficientnet-b0/config.json").write_text('{"model_name": "efficientnet-b0"}')
    models.EfficientNetB0(classes=10).save(tmp_path / "runs/efficientnet-b0/model.keras")
    [example] = [line for line in run_help("export/convert_weights.py") if line.startswith("python export/")]
    code, lines, errors = run(*shlex.split(example)[1:], cwd=tmp_path)
    assert (code, errors, len(lines)) == (0, [], 2)
    assert (tmp_path / "b0.safetensors").is_file()
