"""Reference weights and images: pseudo-random arrays that NumPy alone computes, the same on every machine.

The numbers in tests/golden come from other implementations, run with these weights and images. The scales keep the
activations of the shallowest and of the deepest network of the family in a healthy range at inference.
`fill` and `tests/golden/keras_applications.json` use Keras's names: `layer/variable`, such as `block1a_dwconv/kernel`.
"""

import re
import zlib

import numpy as np


def reference_array(name, shape, seed=0):
    """Returns the float32 array of the parameter that its source calls `name`, in the source's layout.

    The experts of a CondConv kernel are passed unflattened, as
    (E, O, I, kh, kw) for PyTorch names or (E, kh, kw, I, O) for TensorFlow names.
    """
    rng = np.random.RandomState(zlib.crc32(name.encode("utf-8"), seed))
    u = 2.0 * rng.random_sample(tuple(shape)) - 1.0  # uniform in [-1, 1)
    plain = name.replace("/ExponentialMovingAverage", "")
    leaf = re.split("[./]", plain)[-1]
    squeeze_excite = re.search(r"[._/]se[._/]|\.fc[12]\.", plain)
    if leaf in ("running_var", "moving_variance", "variance"):
        return (1.0 + 0.5 * u).astype("float32")
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return (1.0 + 0.3 * u).astype("float32")
    if leaf in ("running_mean", "moving_mean", "mean", "beta", "bias"):
        return (1.0 + u if squeeze_excite else 0.06 * u).astype("float32")

    experts = shape[0] if len(shape) == 5 else None
    kernel = tuple(shape[1:] if experts else shape)
    if leaf == "weight":  # PyTorch: (out, in, ...)
        outputs, inputs, size = kernel[0], kernel[1], kernel[2:]
        depthwise = inputs == 1 and size != (1, 1)
    else:  # TensorFlow: (..., in, out), depthwise (kh, kw, channels, 1)
        outputs, inputs, size = kernel[-1], kernel[-2], kernel[:-2]
        depthwise = outputs == 1 and size != (1, 1)
    if not size:  # dense: the routing of a CondConv block, else the classifier
        gain = 1.5 if "block" in plain else 1.0
    elif depthwise:
        inputs, gain = 1, 1.4
    elif squeeze_excite:
        gain = 0.7
    elif inputs <= 4:  # stem
        gain = 4.0
    elif size != (1, 1):  # fused expansion
        gain = 0.85
    elif outputs > inputs:  # expansion, head
        gain = 1.4
    else:  # projection: weak beside a shortcut; the name or the shape shows whether there is one
        place = re.search(r"(?:blocks|features)\.\d+\.(\d+)\.|block\d+([a-z])_", plain)
        first = set(place.groups()) & {"0", "a"} if place else outputs < inputs < 6 * outputs
        gain = 1.3 if first else 0.25
    if experts:
        gain *= 1.7 / np.sqrt(experts)
    limit = gain * np.sqrt(3.0 / (inputs * np.prod(size, dtype="float64")))
    return (limit * u).astype("float32")


def reference_images(count, height, width, seed=0):
    """Returns float32 [count, height, width, 3] with whole values 0..255: tiles, a tint and noise."""
    rng = np.random.RandomState(seed)
    images = []
    for _ in range(count):
        tiles = np.floor(256.0 * rng.random_sample((8, 8, 3)))
        tint = np.floor(256.0 * rng.random_sample((1, 1, 3)))
        noise = np.floor(256.0 * rng.random_sample((height, width, 3)))
        tiles = tiles[np.arange(height) * 8 // height][:, np.arange(width) * 8 // width]
        images.append(np.clip(tiles + np.floor((tint + noise) / 2.0) - 128.0, 0.0, 255.0))
    return np.stack(images).astype("float32")


def fill(model, seed=0):
    """Sets every variable of a Keras model to its reference array, except the normalization of keras.applications."""
    for layer in model.layers:
        if layer.weights and type(layer).__name__ != "Normalization":
            layer.set_weights([reference_array(f"{layer.name}/{w.name}", w.shape, seed) for w in layer.weights])
    return model
