"""Copies of a model for export: batch norms folded into convolutions, CondConv layers in the form that a file needs."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers

from keras_efficientnet.export.preparation import check_built, has_inputs
from keras_efficientnet.layers import BatchNormalization, CondConv2D, DepthwiseCondConv2D

MIXTURES = (CondConv2D, DepthwiseCondConv2D)
BY_FILTERS = (layers.Conv2D, CondConv2D)  # the last axis of their kernels is the output channel
BY_CHANNELS = (layers.DepthwiseConv2D, DepthwiseCondConv2D)  # the last two axes together are the output channel
NORMS = (layers.BatchNormalization, BatchNormalization)  # but no subclasses, which may compute something else


def fold_batch_norms(model: keras.Model) -> keras.Model:
    """Returns a model with the same inference outputs and no batch norms behind convolutions.

    Each batch norm right behind a convolution becomes a factor of the kernel, and a bias: B0 takes 0.87 of the time in
    a TensorFlow graph. The new model has no moving statistics to update, so train the original model. Networks inside
    the model are folded too. Layers that are not folded are shared with the original model, which does not change.

    Args:
        model: any model with known inputs, on any backend.

    Returns:
        A model with the same inputs, outputs and layer names, except for the batch norms.

    Raises:
        ValueError: the model has no inputs yet.

    Source: Jacob et al. 2017, arxiv.org/abs/1712.05877, section 3.2.

    Example:
        >>> import keras
        >>> norm = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
        >>> model = keras.Sequential([keras.Input((32, 32, 3)), *norm, keras.layers.ReLU()])
        >>> [type(layer).__name__ for layer in fold_batch_norms(model).layers]
        ['InputLayer', 'Conv2D', 'ReLU']
    """
    return _copy(model)


@contextlib.contextmanager
def inference_copy(model: keras.Model, form: str = "fold") -> Iterator[keras.Model]:
    """Yields a model for inference files: batch norms folded, CondConv layers in a form (see `CondConv2D`)."""
    with _calls_removed(model):
        yield _copy(model, form)


@contextlib.contextmanager
def _calls_removed(model: keras.Model) -> Iterator[None]:
    """Removes the record of calls made in the block from the model's layers, which would keep copies in memory."""
    # Keras has no public way to remove the nodes of a call: see test_exporting_leaves_no_trace_in_the_model.
    node_lists = [nodes for layer in _layers(model) for nodes in (layer._inbound_nodes, layer._outbound_nodes)]
    lengths = [len(nodes) for nodes in node_lists]
    try:
        yield
    finally:
        for nodes, length in zip(node_lists, lengths, strict=True):
            del nodes[length:]


def _copy(model, form=None) -> keras.Model:
    """Returns a model that shares the layers of `model`, except for those that change."""
    check_built(model)
    sequential = isinstance(model, keras.Sequential)  # its `output` is that of its last call
    ends = (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)
    model = keras.Model(*ends, name=model.name)
    norms = {layer.name: norm for layer in model.layers if (norm := _find_norm(layer, model))}
    folded_norms = {norm.name for norm in norms.values()}

    def copy_layer(layer):
        change = {"form": form} if form and isinstance(layer, MIXTURES) else {}
        if layer.name in norms:
            return type(layer).from_config(layer.get_config() | {"use_bias": True} | change)
        if change:
            return layer.with_form(form)
        if isinstance(layer, keras.Model) and has_inputs(layer):
            return _copy(layer, form)
        return layer

    def call_layer(layer, inputs, *arguments, **keywords):
        return inputs if layer.name in folded_norms else layer(inputs, *arguments, **keywords)

    result = keras.models.clone_model(model, clone_function=copy_layer, call_function=call_layer)
    for name, norm in norms.items():
        result.get_layer(name).set_weights(_fold(model.get_layer(name), norm))
    return result


def _layers(model) -> Iterator[keras.Layer]:
    """Yields a model and the layers in it and in the models in it."""
    yield model
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else [layer]


def _find_norm(layer, model):
    """Returns the batch norm that is the only consumer of a convolution, or None."""
    # Keras has no public list of the calls of a layer: see test_exporting_leaves_no_trace_in_the_model.
    if type(layer) not in (*BY_FILTERS, *BY_CHANNELS) or len(layer._inbound_nodes) != 1:
        return None
    if getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return None
    consumers = [node.operation for node in layer._outbound_nodes]
    if len(consumers) != 1 or type(consumers[0]) not in NORMS or len(consumers[0]._inbound_nodes) != 1:
        return None
    norm = consumers[0]
    inside = norm in model.layers and all(layer.output is not tensor for tensor in model.outputs)
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    plain = norm.axis in (-1, 3) and not getattr(norm, "renorm", False)  # `renorm` exists since Keras 3.14
    return norm if inside and channels_last and plain else None


def _fold(layer, norm) -> list[np.ndarray]:
    """Returns the kernel and bias of the folded convolution, computed in float64."""
    kernel, *bias = (weight.astype("float64") for weight in layer.get_weights())
    statistics = iter(weight.astype("float64") for weight in norm.get_weights())
    gamma = next(statistics) if norm.scale else 1.0
    beta = next(statistics) if norm.center else 0.0
    mean, variance = statistics
    factor = gamma / np.sqrt(variance + norm.epsilon)
    kernel_factor = factor.reshape(kernel.shape[-2:]) if isinstance(layer, BY_CHANNELS) else factor
    return [kernel * kernel_factor, ((bias[0] if bias else 0.0) - mean) * factor + beta]
