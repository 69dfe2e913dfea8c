"""A model -> a SavedModel, which serves and goes on training without this package; and back, to call it.

What `tf.saved_model.load` and `hub.load` give is a function (inputs, training=False) from pixels, float32 [batch,
height, width, channels] from 0 to 255, to probabilities [batch, classes]. It has `variables`, `trainable_variables` and
`regularization_losses`, as `hub.KerasLayer(path, trainable=True)` wants them, and, if given, `labels.asset_path`.

Its signatures, for TensorFlow Serving and the like:

- `serving_default` takes `inputs`, the same pixels;
- `image_bytes` takes `image_bytes`, strings [batch]: each a JPEG, PNG, GIF or BMP of any size, which it crops and
  resizes as evaluation does. A broken one fails the call.

Both give `probabilities`, float32 [batch, classes]; `classes`, int32 [batch], the likeliest; `top_5_classes`, int32
[batch, 5], `top_5_probabilities` and, with labels, `top_5_labels`, strings: the likeliest first, and as many as there
are where there are fewer than five classes. A feature vector gives `features`, float32 [batch, n], in place of them.
"""

import functools
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_efficientnet.export.agreement import Classifier, compare
from keras_efficientnet.export.pixels import Reader, find_reader
from keras_efficientnet.export.preparation import check_built, check_labels, check_model, hold, quietly
from keras_efficientnet.export.signatures import make_call, make_regularization_losses, make_signatures, name_classes
from keras_efficientnet.files import is_saved_model, replacing
from keras_efficientnet.layers import summed_experts

POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


def to_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    read: Reader | None = None,
    feature_vector: bool = False,
    weight_decay: float = 1e-5,
    overwrite: bool = False,
) -> float:
    """Writes a SavedModel that serves, and trains on, without this package; above stands what it offers.

    Either the whole SavedModel comes to stand at `path`, or what was there stays.

    Args:
        model: a classifier, or a network that ends in its pooling; its height and width may be free.
        path: of the folder to write.
        labels: names of the classes, in order, also for the file `assets/labels.txt`.
        read: bytes of a picture -> pixels, float32 [height, width, channels], in TensorFlow. By default as the authors
            of the network did, which its name tells; no `image_bytes` then if it does not take square RGB images of one
            size, or does not normalise them itself. See `find_reader`.
        feature_vector: whether to leave out what follows the last pooling, and to take images of any size.
        weight_decay: of the kernels, in `regularization_losses`; at least 0. The default is the official recipe's.
        overwrite: whether to replace a SavedModel that is there.

    Returns:
        The largest difference between a probability or feature of the file and the model's, on a few random images.

    Raises:
        FileExistsError: there is something at `path`, and not `overwrite`, or it is no SavedModel.
        ValueError: the model gives no probabilities from images and has no pooling, or another argument does not fit.
        RuntimeError: the file gives other probabilities than the model, or some are not finite.
        OSError: it could not be written.
    """
    if not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must be at least 0. Received: weight_decay={weight_decay}")
    check_built(model)
    read = read or find_reader(model)
    model = make_features(model) if feature_vector else model
    check_model(model)
    outputs, name_outputs = _outputs(model, labels)
    height, width, channels = (None, None, model.input_shape[3]) if feature_vector else model.input_shape[1:]
    spec = tf.TensorSpec((None, height, width, channels), tf.float32, name="inputs")
    with replacing(path, overwrite, is_ours=is_saved_model) as new, quietly():
        _save(model, new, spec, name_outputs, read=read, labels=labels, weight_decay=weight_decay)
        return compare(model, load_saved_model(new), "SavedModel", outputs)


def load_saved_model(path: str | os.PathLike[str]) -> Classifier:
    """Loads what `to_saved_model` wrote, as a function from images to probabilities, or to features."""
    loaded = tf.saved_model.load(os.fspath(path))

    def classify(images):
        return loaded(tf.convert_to_tensor(images, tf.float32)).numpy()

    return classify


def make_features(model: keras.Model) -> keras.Model:
    """The model up to its last pooling, after which there are no places any more."""
    layers = model.layers
    ends = [index for index, layer in enumerate(layers) if isinstance(layer, POOLING) and not layer.keepdims]
    if not ends or any(len(layer.output.shape) > 2 for layer in layers[ends[-1] :]):
        raise ValueError(
            f"A feature vector is what comes out of the last pooling. {model.name} ends in none: give a classifier of "
            "this package, or build the network with include_top=False, pooling='avg'."
        )
    return keras.Model(model.input, layers[ends[-1]].output, name=model.name)


def _outputs(model, labels):
    """What a model gives, "probabilities" or "features", and the function to a signature's outputs from that."""
    if not isinstance(model.layers[-1], POOLING):
        check_labels(model, labels)
        return "probabilities", functools.partial(name_classes, labels=labels)
    if labels is not None:
        raise ValueError(f"`labels` name the classes of a classifier, and {model.name} gives features. Leave them out.")
    return "features", lambda features: {"features": features}


@summed_experts()
def _save(model, path, spec, name_outputs, *, read, labels, weight_decay):
    holder = hold(model)
    holder.__call__ = call = make_call(model, spec)
    holder.trainable_variables = [variable.value for variable in model.trainable_variables]
    holder.regularization_losses = make_regularization_losses(model, weight_decay)
    if labels is not None:
        file = path.with_name("labels.txt")
        file.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        holder.labels = tf.saved_model.Asset(os.fspath(file))
    try:
        tf.saved_model.save(holder, os.fspath(path), make_signatures(call, spec, name_outputs, read))
    except tf.errors.OpError as error:  # a full disk, for example
        raise OSError(f"TensorFlow could not write the SavedModel: {error.message}") from error
