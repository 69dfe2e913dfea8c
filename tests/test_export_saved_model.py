"""A SavedModel as its users run it: TensorFlow alone, TensorFlow Hub, the command line, Keras."""

import io
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.exports import LABELS, enliven, make_small
from support.images import jpeg, random_images, smooth
from support.scripts import run_module

from keras_efficientnet import export
from keras_efficientnet.architectures import CONDCONV_STAGES, VARIANTS
from keras_efficientnet.models import make_model
from keras_efficientnet.preprocessing import image_for_evaluation

# What a user does who has TensorFlow alone. `sys.modules[...] = None` makes an import fail.
ELSEWHERE = """
import sys
sys.modules["keras_efficientnet"] = None
import numpy as np, tensorflow as tf
path, images, pictures, results = sys.argv[1:]
images, pictures = np.load(images), tf.constant(np.load(pictures, allow_pickle=True).tolist())
loaded = tf.saved_model.load(path)
found = {f"call_{n}": loaded(images[:n]) for n in (1, 3)} | {"inference": loaded(images, training=False)}
found |= loaded.signatures["serving_default"](inputs=tf.constant(images))
found |= {f"bytes_{name}": value for name, value in loaded.signatures["image_bytes"](image_bytes=pictures).items()}
found["labels"] = tf.io.gfile.GFile(loaded.labels.asset_path.numpy()).read().splitlines()
found["names"] = [variable.name for variable in loaded.variables]
found["trainable"] = [variable.name for variable in loaded.trainable_variables]
found["losses"] = [loss() for loss in loaded.regularization_losses]
with tf.GradientTape() as tape:
    found["training"] = loaded(images, training=True)
    gradients = tape.gradient(tf.math.log(found["training"])[:, 0], loaded.trainable_variables)
found["without_gradient"] = sum(gradient is None for gradient in gradients)
found["after_training"] = loaded(images)
arrays = {name: np.asarray(value) for name, value in found.items()}
np.savez(results, **{name: array.astype("S") if array.dtype == object else array for name, array in arrays.items()})
"""

# What a user of TensorFlow Hub does, whose Keras is the former one
HUB = """
import sys
sys.modules["keras_efficientnet"] = None
import numpy as np, tensorflow as tf, tensorflow_hub as hub, tf_keras
classifier, features, images, results = sys.argv[1:]
images = np.load(images)
labels = np.arange(len(images)) % 10
found = {"loaded": hub.load(classifier)(images)}

def fine_tune(name, model, images):
    layer = model.layers[0]
    model.compile(tf_keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    found[f"{name}_outputs"] = model(images)
    found[f"{name}_penalties"], found[f"{name}_weights"] = len(model.losses), len(layer.trainable_weights)
    statistics = [weight for weight in layer.non_trainable_weights if "moving" in weight.name]
    before = [weight.numpy() for weight in statistics]
    losses = [model.evaluate(images, labels, verbose=0)]
    for _ in range(3):
        model.train_on_batch(images, labels)
    found[f"{name}_losses"] = losses + [model.evaluate(images, labels, verbose=0)]
    found[f"{name}_moved"] = [np.abs(new - old).max() for new, old in zip(statistics, before)]

tf_keras.utils.set_random_seed(1)
fine_tune("classifier", tf_keras.Sequential([hub.KerasLayer(classifier, trainable=True)]), images)
head = tf_keras.layers.Dense(10, "softmax", kernel_initializer="zeros")  # from log(10) on, the same each time
fine_tune("features", tf_keras.Sequential([hub.KerasLayer(features, trainable=True), head]), images[:, :, :24])
np.savez(results, **{name: np.asarray(value) for name, value in found.items()})
"""


def encode(mode, kind):
    """A picture of 50 x 70 pixels from Pillow."""
    stream = io.BytesIO()
    Image.fromarray(smooth(50, 70, seed=7)).convert(mode).save(stream, kind)
    return stream.getvalue()


def make_pictures():
    """Of every kind, in sizes around the 32 pixels of the network; one has holes where it is transparent."""
    alpha = np.concatenate([smooth(64, 45, 3), smooth(64, 45, 4)[..., :1]], axis=2)
    pngs = [tf.io.encode_png(image).numpy() for image in (alpha, smooth(33, 90, 5)[..., :1], smooth(20, 20, 6))]
    return [jpeg(), jpeg(300, 200, seed=2), *pngs, encode("L", "JPEG"), encode("RGB", "BMP"), encode("P", "GIF")]


def decoded(pictures, size=32, **options):
    return np.stack([image_for_evaluation(picture, size, **options) for picture in pictures])


def run_python(code, *arguments, cwd, **environment):
    command = [sys.executable, "-I", "-c", code, *arguments]
    environment = os.environ | environment
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(np.load(cwd / arguments[-1]))


@pytest.fixture(scope="module")
def model(tiny):
    keras.utils.set_random_seed(1)
    return enliven(make_model(tiny, classes=10))


@pytest.fixture(scope="module")
def small():
    return make_small()


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    export.to_saved_model(model, path, labels=LABELS)
    return path


@pytest.fixture(scope="module")
def features(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "features"
    export.to_saved_model(model, path, feature_vector=True, weight_decay=0.0)
    return path


@pytest.fixture(scope="module")
def elsewhere(saved_model, tmp_path_factory):
    """What the SavedModel does in a process that cannot import this package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(saved_model, folder / "moved")
    np.save(folder / "images.npy", random_images(3))
    np.save(folder / "pictures.npy", np.array(make_pictures(), dtype=object))
    return run_python(ELSEWHERE, "moved", "images.npy", "pictures.npy", "results.npz", cwd=folder)


@pytest.fixture(scope="module")
def hub(saved_model, features, tmp_path_factory):
    """What becomes of both kinds in TensorFlow Hub."""
    folder = tmp_path_factory.mktemp("hub")
    np.save(folder / "images.npy", random_images(8))
    places = (str(saved_model), str(features), "images.npy", "results.npz")
    return run_python(HUB, *places, cwd=folder, TF_USE_LEGACY_KERAS="1")


@pytest.mark.parametrize("count", [1, 3])
def test_a_saved_model_gives_the_same_probabilities_without_this_package(model, elsewhere, count):
    expected = model(random_images(3)[:count], training=False)
    np.testing.assert_allclose(elsewhere[f"call_{count}"], expected, atol=1e-5)


def test_a_saved_model_runs_inference_by_default(elsewhere):
    np.testing.assert_array_equal(elsewhere["call_3"], elsewhere["inference"])
    assert np.abs(elsewhere["training"] - elsewhere["inference"]).max() > 1e-3


def test_the_signature_gives_probabilities_and_the_most_probable_classes(model, elsewhere):
    expected = np.asarray(model(random_images(3), training=False))
    best = np.argsort(-expected, axis=1)[:, :5]
    np.testing.assert_allclose(elsewhere["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(elsewhere["classes"], best[:, 0])
    np.testing.assert_array_equal(elsewhere["top_5_classes"], best)
    assert elsewhere["classes"].dtype == elsewhere["top_5_classes"].dtype == np.int32
    np.testing.assert_allclose(elsewhere["top_5_probabilities"], np.take_along_axis(expected, best, 1), atol=1e-5)
    assert elsewhere["top_5_labels"].tolist() == [[LABELS[index].encode() for index in row] for row in best]


def test_images_of_any_kind_and_size_are_read_as_in_evaluation(model, saved_model, elsewhere):
    pixels = decoded(make_pictures())
    expected = np.asarray(model(pixels, training=False))
    assert np.std(expected, axis=0).max() > 0.03  # they are told apart
    found = elsewhere["bytes_probabilities"]
    np.testing.assert_allclose(found, export.load_saved_model(saved_model)(pixels), atol=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # Keras, eagerly, rounds otherwise
    outputs = {name.removeprefix("bytes_"): value for name, value in elsewhere.items() if name.startswith("bytes_top")}
    assert outputs.keys() == {"top_5_classes", "top_5_probabilities", "top_5_labels"}
    assert outputs["top_5_labels"][:, 0].tolist() == [LABELS[index].encode() for index in expected.argmax(axis=1)]


def test_a_saved_model_contains_the_labels(elsewhere):
    assert elsewhere["labels"].tolist() == LABELS


def test_a_saved_model_holds_the_variables_of_the_model(model, elsewhere):
    assert len(elsewhere["names"]) == len(model.variables)
    assert len(elsewhere["trainable"]) == len(model.trainable_variables)
    assert "stem_conv/kernel:0" in elsewhere["trainable"]
    assert "stem_bn/moving_mean:0" not in elsewhere["trainable"]


def test_the_losses_are_half_the_squares_of_the_kernels(model, elsewhere):
    kernels = [layer.kernel.numpy().astype("float64") for layer in model.layers if hasattr(layer, "kernel")]
    np.testing.assert_allclose(elsewhere["losses"], [1e-5 * (kernel**2).sum() / 2 for kernel in kernels], rtol=1e-5)


def test_a_saved_model_can_be_trained(elsewhere):
    assert elsewhere["without_gradient"] == 0
    assert np.abs(elsewhere["after_training"] - elsewhere["inference"]).max() > 1e-4  # the moving statistics moved


def test_a_saved_model_stores_each_variable_once(model, saved_model):
    stored = sum(file.stat().st_size for file in (saved_model / "variables").glob("*.data-*"))
    parameters = sum(variable.value.numpy().nbytes for variable in model.variables)
    assert parameters <= stored < 1.1 * parameters


@pytest.fixture(scope="module", params=[0, 4], ids=["no_experts", "experts"])
def trainable(request, tiny, tmp_path_factory):
    """A model and the path of its SavedModel."""
    stages = CONDCONV_STAGES[:1] + CONDCONV_STAGES[5:6]  # the second has experts
    row = VARIANTS["efficientnet-condconv-b0-4e"]._replace(width=0.25, depth=0.5, stages=stages)
    model = make_model(row if request.param else tiny, classes=10, input_shape=(32, 32, 3))
    keras.utils.set_random_seed(1)
    enliven(model)
    path = tmp_path_factory.mktemp("trainable") / "new"
    export.to_saved_model(model, path)
    return model, path


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_the_model(trainable, caplog, training):
    model, path = trainable
    loaded = tf.saved_model.load(os.fspath(path))
    assert not caplog.records  # for example a warning that a custom gradient is missing
    images, labels = random_images(8), np.arange(8)

    def gradients(function, variables):
        with tf.GradientTape() as tape:
            probabilities = tf.function(function)(tf.constant(images), training=training)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))
        return tape.gradient(loss, variables)

    expected = gradients(model, [variable.value for variable in model.trainable_variables])
    found = gradients(loaded, list(loaded.trainable_variables))
    scale = float(tf.linalg.global_norm(expected))
    assert scale > 0.1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6 * scale)


@pytest.mark.slow
def test_tensorflow_hub_loads_and_trains_a_saved_model(model, hub):
    np.testing.assert_allclose(hub["loaded"], model(random_images(8), training=False), atol=1e-5)
    np.testing.assert_allclose(hub["classifier_outputs"], hub["loaded"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "features"])
def test_three_steps_of_fine_tuning_with_hub_lower_the_loss(model, hub, kind):
    before, after = hub[f"{kind}_losses"]
    assert after < 0.95 * before
    statistics = [variable for variable in model.variables if "moving" in variable.path]
    assert len(hub[f"{kind}_moved"]) == len(statistics) == 20
    assert (hub[f"{kind}_moved"] > 0).all()


@pytest.mark.slow
def test_hub_trains_every_variable_and_adds_every_penalty(model, hub):
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    assert hub["classifier_weights"] == len(model.trainable_variables)
    assert hub["classifier_penalties"] == len(kernels)
    assert hub["features_weights"] == len(model.trainable_variables) - 2  # kernel and bias of the classifier
    assert hub["features_penalties"] == 0  # it was written without weight decay


@pytest.mark.parametrize("signature", ["serving_default", "image_bytes"])
def test_saved_model_cli_runs_both_signatures(model, saved_model, tmp_path, signature):
    name = {"serving_default": "inputs", "image_bytes": "image_bytes"}[signature]
    given = {"serving_default": random_images(2), "image_bytes": np.array(make_pictures()[:2])}[signature]
    np.save(tmp_path / "given.npy", given)
    cli("run", saved_model, "--signature_def", signature, f"--inputs={name}=given.npy", "--outdir=.", cwd=tmp_path)
    images = given if signature == "serving_default" else decoded(given.tolist())
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-5)
    labels = np.load(tmp_path / "top_5_labels.npy", allow_pickle=True)
    assert labels[:, 0].tolist() == [LABELS[index].encode() for index in expected.argmax(axis=1)]


def cli(command, saved_model, *options, cwd):
    arguments = (command, "--dir", saved_model, "--tag_set=serve", *options)
    code, lines, errors = run_module("tensorflow.python.tools.saved_model_cli", *arguments, cwd=cwd)
    assert code == 0, errors
    return "\n".join(lines)


def test_saved_model_cli_shows_names_and_shapes(saved_model, tmp_path):
    shown = " ".join(cli("show", saved_model, "--signature_def=image_bytes", cwd=tmp_path).split())
    assert "inputs['image_bytes'] tensor_info: dtype: DT_STRING shape: (-1) " in shown
    assert "outputs['probabilities'] tensor_info: dtype: DT_FLOAT shape: (-1, 10) " in shown


def test_keras_takes_it_as_a_layer(model, saved_model):
    layer = keras.layers.TFSMLayer(saved_model, call_endpoint="serving_default")
    inputs = keras.Input((32, 32, 3))
    found = keras.Model(inputs, layer(inputs)).predict(random_images(2), verbose=0)
    np.testing.assert_allclose(found["probabilities"], model(random_images(2), training=False), atol=1e-5)


def test_a_feature_vector_takes_images_of_any_size(tiny, model, features):
    any_size = make_model(tiny, include_top=False, pooling="avg", input_shape=(None, None, 3))
    any_size.set_weights(model.get_weights()[:-2])
    network = export.load_saved_model(features)
    for shape in ((2, 32, 32), (1, 50, 81), (3, 96, 64)):
        expected = np.asarray(any_size(random_images(*shape), training=False))
        np.testing.assert_allclose(network(random_images(*shape)), expected, atol=1e-5 * np.abs(expected).max())


def test_a_network_that_ends_in_its_pooling_is_a_feature_vector(tiny, tmp_path):
    keras.utils.set_random_seed(2)
    bare = make_model(tiny, include_top=False, pooling="max", input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="`labels` name the classes of a classifier"):
        export.to_saved_model(bare, tmp_path / "new", labels=LABELS)
    assert export.to_saved_model(bare, tmp_path / "new") < 1e-4
    signatures = tf.saved_model.load(os.fspath(tmp_path / "new")).signatures
    assert [*signatures] == ["serving_default"]  # which size pictures are to have, nobody can tell
    outputs = signatures["serving_default"](inputs=tf.constant(random_images(2, 40, 48)))
    expected = np.asarray(bare(random_images(2, 40, 48), training=False))
    np.testing.assert_allclose(outputs["features"], expected, atol=1e-5 * np.abs(expected).max())


def test_a_feature_vector_takes_pictures_in_the_size_of_the_classifier(model, features):
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    outputs = tf.saved_model.load(os.fspath(features)).signatures["image_bytes"](tf.constant(make_pictures()))
    assert [*outputs] == ["features"]
    expected = np.asarray(pooled(decoded(make_pictures()), training=False))
    np.testing.assert_allclose(outputs["features"], expected, atol=1e-5 * np.abs(expected).max())


def test_a_saved_model_of_free_size_takes_images_of_any_size(tmp_path):
    model = make_small(shape=(None, None, 3))
    export.to_saved_model(model, tmp_path / "free")
    classify = export.load_saved_model(tmp_path / "free")
    for images in (random_images(2, 40, 72), random_images(1, 96, 64)):
        np.testing.assert_allclose(classify(images), model(images, training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"no picture", "Unknown image file format"),
        (jpeg()[:200], "Invalid JPEG data"),
        (encode("RGB", "PNG")[:200], "PNG"),
        (b"", "empty"),
    ],
)
def test_a_broken_image_fails_the_call_with_a_clear_error(saved_model, broken, message):
    serve = tf.saved_model.load(os.fspath(saved_model)).signatures["image_bytes"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(tf.constant([jpeg(), broken]))


def test_a_network_of_three_classes_names_three(tmp_path):
    model = make_small(classes=3)
    export.to_saved_model(model, tmp_path / "new", labels=["one", "two", "three"])
    outputs = tf.saved_model.load(os.fspath(tmp_path / "new")).signatures["serving_default"](inputs=random_images(2))
    assert outputs["top_5_labels"].shape == outputs["top_5_probabilities"].shape == (2, 3)
    np.testing.assert_allclose(tf.reduce_sum(outputs["top_5_probabilities"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"), [(["one"] * 9, "10 classes"), (["one"] * 9 + ["o\nne"], "line"), ([""] * 10, "line")]
)
def test_labels_that_do_not_match_the_classes_are_refused(small, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        export.to_saved_model(small, tmp_path / "new", labels=labels)
    assert not [*tmp_path.iterdir()]


def test_a_model_without_features_is_refused(tmp_path):
    row = VARIANTS["efficientnet-condconv-b0-4e"]._replace(width=0.25, depth=0.1)
    bare = make_model(row, include_top=False, input_shape=(32, 32, 3))  # its last pooling is of a routing
    for model in (bare, keras.Sequential([keras.Input((32, 32, 3)), make_small()])):
        with pytest.raises(ValueError, match="ends in none: give a classifier of this package"):
            export.to_saved_model(model, tmp_path / "new", feature_vector=True)
    with pytest.raises(ValueError, match="has no inputs yet. Begin it with a keras.Input"):
        export.to_saved_model(keras.Sequential([make_small()]), tmp_path / "new")
    with pytest.raises(ValueError, match="`weight_decay` must be at least 0. Received: weight_decay=-1"):
        export.to_saved_model(make_small(), tmp_path / "new", weight_decay=-1)
