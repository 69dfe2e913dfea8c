"""Datasets as `tf.data`: the embedded sample, TFRecords, class folders and TensorFlow Datasets."""

from keras_efficientnet.datasets.factory import Data, make_datasets

__all__ = ["Data", "make_datasets"]
