"""Weights: published weights by name, and files of timm, torchvision, lukemelas, the official code and Keras.

Imports nothing, so that `keras_efficientnet.weights.pretrained` needs neither TensorFlow nor Keras.
"""
