"""Runtimes of exported files. Imports nothing: a process that times a TFLite file must not load TensorFlow."""
