"""Images for the tests: arrays, encoded files, class folders and records."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_efficientnet.datasets.shards import serialize


def smooth(height, width, seed):
    """Returns uint8 [height, width, 3]: 4 x 4 random colours, enlarged, with a little grain; JPEG preserves it well."""
    random = np.random.default_rng(seed)
    coarse = tf.image.resize(random.uniform(0, 255, (4, 4, 3)), (height, width), "bicubic").numpy()
    return np.clip(coarse + random.normal(0, 2, coarse.shape), 0, 255).astype("uint8")


def jpeg(height=40, width=48, seed=0):
    """Returns the bytes of a JPEG file."""
    return tf.io.encode_jpeg(smooth(height, width, seed), quality=90).numpy()


def record(data, label):
    """Returns a record with an image and a label; omits the key of a value that is None."""
    features = {"image/encoded": data, "image/class/label": label}
    return serialize({key: value for key, value in features.items() if value is not None})


def write_records(path, records):
    """Writes serialized records to a TFRecord file."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for value in records:
            writer.write(value)


def write_folder(folder, classes, images):
    """Writes class folders of `images` JPEGs each, numbered through; the number is the seed. Returns `folder`."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(images):
            seed = number * images + place
            (folder / name / f"{place:03d}.jpg").write_bytes(jpeg(seed=seed))
    return folder


def random_images(count, height=32, width=32):
    """Returns float32 [count, height, width, 3] from 0 to 255, of different contrast and brightness."""
    random = np.random.default_rng(1)
    coarse = random.uniform(0, 255, (count, height // 8, width // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (coarse * random.uniform(0.3, 1, (count, 1, 1, 3))).astype("float32")


def encoded(mode, kind, **given):
    """Returns the bytes of one image, in a mode and a file format of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(smooth(40, 48, 1)).convert(mode).save(buffer, kind, **given)
    return buffer.getvalue()
