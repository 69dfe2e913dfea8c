"""Pictures for the tests of datasets: smooth noise, which JPEG keeps well, in files and in records."""

import numpy as np
import tensorflow as tf

from keras_efficientnet.datasets.shards import serialize


def smooth(height, width, seed):
    """uint8 [height, width, 3]: four by four random colours, enlarged, with a little grain."""
    random = np.random.default_rng(seed)
    coarse = tf.image.resize(random.uniform(0, 255, (4, 4, 3)), (height, width), "bicubic").numpy()
    return np.clip(coarse + random.normal(0, 2, coarse.shape), 0, 255).astype("uint8")


def jpeg(height=40, width=48, seed=0):
    return tf.io.encode_jpeg(smooth(height, width, seed), quality=90).numpy()


def record(data, label):
    """A record with the two keys that are read; a key is left out where its value is None."""
    features = {"image/encoded": data, "image/class/label": label}
    return serialize({key: value for key, value in features.items() if value is not None})


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for value in records:
            writer.write(value)


def write_folder(folder, classes, pictures):
    """Class folders with so many JPEGs each; the seed of a picture is its number over all classes."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(pictures):
            seed = number * pictures + place
            (folder / name / f"{place:03d}.jpg").write_bytes(jpeg(seed=seed))
    return folder
