"""What a file may differ in from the network that takes it: classes, channels, padding; each is said by a warning."""

import functools

import numpy as np

WITH_BACKGROUND = 1001  # classes of the official code: "background" goes before the 1000 of ImageNet
WORDS = {21843: "21843 classes, those of ImageNet-21k", 11821: "11821 classes, those of ImageNet-12k"}


def fit_classifier(pairs, found, model, source, adapts):
    """Fits the classifier of a file for other classes: without the background's column, or not at all.

    Args:
        pairs: all of the network.
        found: the arrays of the file by their names there.
        model: that takes them.
        source: what to call the file.
        adapts: whether the model may keep its own classifier.

    Returns:
        The pairs to fill, the changes of arrays by name, and a message, or None.
    """
    classifier = [pair for pair in pairs if pair.layer == "predictions"]
    shapes = [tuple(found[pair.key].shape) for pair in classifier]
    places = [pair.axes.index(len(pair.axes) - 1) for pair in classifier]
    if any(len(shape) != len(pair.shape) for shape, pair in zip(shapes, classifier, strict=True)):
        return pairs, {}, None
    theirs = {shape[place] for shape, place in zip(shapes, places, strict=True)}
    own = {pair.shape[place] for pair, place in zip(classifier, places, strict=True)}
    others = [
        (shape[:place] + shape[place + 1 :], pair.shape[:place] + pair.shape[place + 1 :])
        for shape, place, pair in zip(shapes, places, classifier, strict=True)
    ]
    if len(theirs) != 1 or theirs == own or any(one != other for one, other in others):
        return pairs, {}, None
    (classes,), (wanted,) = theirs, own
    if classes == WITH_BACKGROUND == wanted + 1:
        message = f"{source} is for 1001 classes, the background first: {model.name} takes the other 1000."
        return pairs, {pair.key: _without_first for pair in classifier}, message
    if not adapts:
        return pairs, {}, None
    message = (
        f"{source} is for {WORDS.get(classes, f'{classes} classes')}, {model.name} for {wanted}: its classifier "
        "stays as it was. Train it."
    )
    return [pair for pair in pairs if pair.layer != "predictions"], {}, message


def _without_first(array):
    return array[..., 1:]


def fit_stem(pairs, found, model, source):
    """Fits the stem's kernels for RGB to images of other channels: summed for one, repeated and scaled for more.

    Args:
        pairs: all of the network.
        found: the arrays of the file by their names there.
        model: that takes them.
        source: what to call the file.

    Returns:
        The changes of arrays by name, and a message, or None.
    """
    for pair in pairs:
        if pair.layer != "stem_conv":
            continue
        place, channels = pair.axes.index(2), pair.variable.shape[2]
        rgb = (*pair.shape[:place], 3, *pair.shape[place + 1 :])
        if channels != 3 and tuple(found[pair.key].shape) == rgb:
            message = f"{source} is for RGB, {model.name} for images of {channels} channels: the stem is adapted."
            return {pair.key: functools.partial(_mix, channels=channels)}, message
    return {}, None


def _mix(array, *, channels):
    array = array.astype("float32")
    if channels == 1:
        return array.sum(axis=2, keepdims=True)
    return array[:, :, np.arange(channels) % 3] * (3 / channels)


def check_padding(model, origin, source, asked):
    """Holds the padding and the epsilon that weights were trained with to those of the network.

    Args:
        model: that takes them.
        origin: of the weights.
        source: what to call the file.
        asked: whether weights for another padding are wanted all the same.

    Returns:
        A message where they differ, or None.

    Raises:
        ValueError: the padding is another, and nobody asked.
    """
    layers = {layer.name: layer for layer in model.layers}
    if origin.graph is None or not {"stem_conv", "stem_bn"} <= set(layers):
        return None
    own = ("symmetric" if "stem_conv_pad" in layers else "same", layers["stem_bn"].epsilon)
    depth = len({name.partition("_")[0] for name in layers if name.endswith("_project_conv")})
    graphs = origin.graphs.get((depth, layers["stem_conv"].kernel.shape[-1]), (origin.graph,))
    if own in graphs:
        return None
    padding, epsilon = graphs[0]
    differences = (
        f"{source} has weights of {origin.name}, trained with {padding} padding and an epsilon of {epsilon:g}; "
        f"{model.name} has {own[0]} padding and {own[1]:g}"
    )
    if own[0] in {padding for padding, _ in graphs} or asked:
        return f"{differences}: its results are not the published ones. Train it further."
    mend = "a network whose name ends in -torch" if padding == "symmetric" else "the network without -torch"
    raise ValueError(f"{differences}. Build {mend}, or take them all the same with origin={origin.name!r}.")
