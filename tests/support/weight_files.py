"""Writes weights as third-party programs do: PyTorch's files, and checkpoints of TensorFlow 1."""

import pickle
import warnings
import zipfile

import tensorflow as tf


def write_zip(path, content, storages=()):
    """Writes a zip file in PyTorch's layout: a pickle, and the bytes of each storage."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for key, data in dict(storages).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_state(path, arrays):
    """Writes a state_dict as `torch.save` does: names, one record per tensor, one storage per tensor."""
    content, storages = b"\x80\x02ccollections\nOrderedDict\n)R(", {}
    for number, (name, array) in enumerate(arrays.items()):
        dump = lambda value: pickle.dumps(value, protocol=2)[2:-1]  # noqa: E731  without its frame
        kind = {"float32": b"FloatStorage", "int64": b"LongStorage"}[array.dtype.name]
        strides = tuple(stride // array.itemsize for stride in array.strides)
        storage = b"(" + dump("storage") + b"ctorch\n" + kind + b"\n" + dump(str(number)) + dump("cpu")
        storage += dump(array.size) + b"tQ"
        record = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + dump(0) + dump(array.shape) + dump(strides)
        content += dump(name) + record + b"\x89}tR"
        storages[str(number)] = array.tobytes()
    return write_zip(path, content + b"u.", storages)


def save_checkpoint(path, arrays):
    """Saves a checkpoint as TensorFlow 1 saves one during training; returns its path."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        holders = {name: tf.compat.v1.placeholder(array.dtype, array.shape) for name, array in arrays.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            variables = {name: tf.compat.v1.Variable(x, use_resource=False) for name, x in holders.items()}
        feed = {holders[name]: array for name, array in arrays.items()}
        session.run([variable.initializer for variable in variables.values()], feed)
        return tf.compat.v1.train.Saver(variables).save(session, str(path / "model.ckpt"), global_step=109474)
