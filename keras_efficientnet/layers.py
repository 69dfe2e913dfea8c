"""Layers that Keras lacks: pixel normalization, a fused batch normalization, and the convolutions of CondConv."""

import warnings
from typing import Any

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

FORMS = ("fold", "mix", "sum")
LARGEST_NORMALIZED = 3.0  # ImageNet's statistics give values between -2.2 and 2.7


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class PixelNormalization(keras.layers.Rescaling):
    """Normalizes pixels from 0 to 255, and warns once, outside graphs, if its inputs cannot be such pixels.

    Arguments and numbers are those of `keras.layers.Rescaling`.

    Example:
        >>> import numpy as np
        >>> PixelNormalization(1 / 127.5, -1.0)(np.full((1, 1, 1, 1), 255.0)).numpy().item()
        1.0
    """

    _warned = False

    def call(self, inputs: Any) -> Any:
        """Returns the normalized pixels."""
        if keras.backend.backend() == "tensorflow" and tf.executing_eagerly():
            self.check(inputs)
        return super().call(inputs)

    def check(self, images: Any) -> None:
        """Warns, once, if all values are between -3 and 3 and some of them are negative or not whole."""
        if self._warned:
            return
        lowest, highest = float(ops.min(images)), float(ops.max(images))
        if -LARGEST_NORMALIZED <= lowest and highest <= LARGEST_NORMALIZED:
            if lowest < 0 or bool(ops.any(ops.floor(images) != images)):
                self._warned = True
                warnings.warn(
                    f"The images have values from {lowest:.3g} to {highest:.3g}, and the network normalises pixels "
                    "from 0 to 255 itself: its results will be wrong. Remove your own normalisation (/ 255, Rescaling, "
                    "preprocess_input), or build the network with include_preprocessing=False.",
                    stacklevel=2,
                )


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalization, computed by TensorFlow's fused kernel.

    Keras 3 composes it of small operations; the kernel makes a training step of B0 1.4 times as fast on a CPU.
    Arguments, weights and numbers are those of Keras: the moving variance follows the *biased* variance of the batch.
    `synchronized=True` normalizes over `group` replicas (by default all) with one all-reduce per layer. Other
    backends, other ranks and masks use Keras's implementation.

    Example:
        >>> import numpy as np
        >>> BatchNormalization()(np.ones((2, 4, 4, 3), "float32")).shape
        TensorShape([2, 4, 4, 3])
    """

    group: int | None = None

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Returns the normalized inputs, and updates the moving statistics in training."""
        fused = (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.dtype_policy.variable_dtype == "float32"
            and self.compute_dtype in ("float32", "float16", "bfloat16")
            and self.center
            and self.scale
            and mask is None
            and not getattr(self, "renorm", False)  # since Keras 3.14
        )
        if not fused:
            return super().call(inputs, training=training, mask=mask)
        training = bool(training and self.trainable)
        replica = tf.distribute.get_replica_context()
        if training and self.synchronized and replica and replica.num_replicas_in_sync > 1:
            return self._synchronized(inputs)
        return self._fused(inputs, training)

    def _fused(self, inputs, training):
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=() if training else self.moving_mean.value,
            variance=() if training else self.moving_variance.value,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
            self._update_statistics(mean, variance * (count - 1.0) / count)  # the kernel divides by count - 1
        return outputs

    def _synchronized(self, inputs):
        x = tf.cast(inputs, "float32")
        sums = [tf.reduce_sum(x, (0, 1, 2)), tf.reduce_sum(tf.square(x), (0, 1, 2)), tf.ones_like(self.gamma.value)]
        sums[2] *= tf.cast(tf.reduce_prod(tf.shape(x)[:3]), "float32")
        total, squares, count = tf.unstack(_sum_over_replicas(tf.stack(sums), self.group))
        mean = total / count
        variance = tf.maximum(squares / count - tf.square(mean), 0.0)
        self._update_statistics(mean, variance)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta.value, self.gamma.value, self.epsilon)
        return tf.cast(outputs, self.compute_dtype)

    def _update_statistics(self, mean, variance):
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))


def _sum_over_replicas(x, group):
    """Returns the sum of `x` over the replicas of this replica's group, or over all replicas.

    Strategies cannot sum over groups: this sums a tensor with one row per group over all replicas.
    """
    replica = tf.distribute.get_replica_context()
    if not group or group == replica.num_replicas_in_sync:
        return replica.all_reduce("sum", x)
    own = replica.replica_id_in_sync_group // group
    row = tf.one_hot(own, replica.num_replicas_in_sync // group)
    rows = replica.all_reduce("sum", tf.tensordot(row, x, axes=0))
    return tf.tensordot(row, rows, axes=1)


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class PerExpert(keras.initializers.Initializer):
    """Draws the kernel of each expert, [experts, ...], with the fan of a single expert.

    Args:
        initializer: initializer of one kernel, its name or its configuration.
    """

    def __init__(self, initializer: Any):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None, **keywords: Any) -> Any:
        """Returns the kernels."""
        one = self.initializer
        if isinstance(one, keras.initializers.VarianceScaling):  # Keras counts the expert axis as part of the window
            together = {"scale": one.scale * shape[0], "mode": one.mode, "distribution": one.distribution}
            return keras.initializers.VarianceScaling(**together, seed=one.seed)(shape, dtype=dtype, **keywords)
        settings = one.get_config()
        seeds = settings.get("seed")
        each = [one.clone() for _ in range(shape[0])]  # without a seed, each clone draws different numbers
        if isinstance(seeds, int):
            each = [type(one).from_config({**settings, "seed": seeds + expert}) for expert in range(shape[0])]
        return ops.stack([draw(shape[1:], dtype=dtype, **keywords) for draw in each])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"initializer": keras.initializers.serialize(self.initializer)}


class _Experts(keras.layers.Layer):
    """Base of the two CondConv layers: their kernels, and the weighted sum of the experts' outputs."""

    def __init__(
        self,
        kernel_size,
        experts,
        *,
        strides=1,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        form="fold",
        **keywords,
    ):
        super().__init__(**keywords)
        for name, value in (("kernel_size", kernel_size), ("experts", experts), ("strides", strides)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number, at least 1. Received: {name}={value}")
        if padding not in ("same", "valid"):
            raise ValueError(f"`padding` must be 'same' or 'valid'. Received: padding={padding!r}")
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {', '.join(FORMS)}. Received: form={form!r}")
        self.kernel_size, self.experts, self.strides, self.padding = kernel_size, experts, strides, padding
        self.use_bias, self.form = use_bias, form
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def with_form(self, form: str) -> "_Experts":
        """Returns a layer that shares the weights of this built layer and computes in another form."""
        layer = type(self).from_config(self.get_config() | {"form": form})
        layer.kernel = self.kernel
        if self.use_bias:
            layer.bias = self.bias
        layer.built = True
        return layer

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        features, routing = input_shape
        if routing[-1] != self.experts:
            raise ValueError(f"`routing` must be [batch, {self.experts}], as `experts`. Received: shape={routing}")
        shape = (self.experts, self.kernel_size, self.kernel_size, *self._channels(features[-1]))
        self.kernel = self.add_weight(shape=shape, initializer=PerExpert(self.kernel_initializer), name="kernel")
        if self.use_bias:
            filters = self._filters(features[-1])
            self.bias = self.add_weight(shape=(filters,), initializer="zeros", name="bias")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the convolved features of `[features, routing]`."""
        outputs = self._convolve(*inputs, training)
        return outputs + ops.convert_to_tensor(self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the outputs, from the shapes of features and routing."""
        features, _ = input_shape
        sizes = [self._output_size(size) for size in features[1:3]]
        return (features[0], *sizes, self._filters(features[-1]))

    def _output_size(self, size):
        if size is None:
            return None
        border = 0 if self.padding == "same" else self.kernel_size - 1
        return -(-(size - border) // self.strides)

    def _is_fast(self, features, training) -> bool:
        """Returns whether to use operations that only TensorFlow runs fast, which other formats cannot represent.

        Inference on an unknown number of images may be traced for a file, by Keras's or TensorFlow's exporters.
        """
        known = training or bool(features.shape[0])
        return self.form == "fold" and keras.backend.backend() == "tensorflow" and known

    def _sum_of_outputs(self, convolve, features, kernels, routing, fast):
        weights = ops.split(ops.reshape(routing, (-1, 1, 1, self.experts)), self.experts, axis=-1)
        options = {"strides": self.strides, "padding": self.padding}
        outputs = [
            convolve(features, kernel, **options) * weight
            for kernel, weight in zip(ops.unstack(kernels, self.experts), weights, strict=True)
        ]
        if fast:
            return tf.add_n(outputs)  # one pass over memory; LiteRT runs ADD_N slowly
        return sum(outputs[1:], outputs[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "experts": self.experts,
            "strides": self.strides,
            "padding": self.padding,
            "use_bias": self.use_bias,
            "form": self.form,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class CondConv2D(_Experts):
    """Convolves each image with its own mixture of expert kernels.

    Takes `[features, routing]`: [batch, height, width, channels] and [batch, experts]. The batch size may be unknown.
    Kernels of one pixel are mixed first and applied by a batched matrix product. Larger kernels are applied one by one
    and their outputs summed, which gives the same result because a convolution is linear.

    Args:
        filters: number of output channels.
        kernel_size: side of the window, in pixels.
        experts: number of kernels to mix.
        strides: in pixels, in both directions.
        padding: "same" or "valid".
        use_bias: whether to add a bias per output channel, which all experts share.
        kernel_initializer: initializer of the kernel of one expert.
        form: how inference computes the mixture, with equal outputs: "fold" is the fastest in TensorFlow, for a known
            number of images; for an unknown one it computes like "mix", which every exporter of Keras and TensorFlow
            can write. "mix" mixes only kernels of one pixel. "sum" mixes no kernels, so that every kernel is a
            constant, as int8 needs it.

    Raises:
        ValueError: an argument is out of range, or the routing has another number of experts.

    Source: Yang et al. 2019, arxiv.org/abs/1904.04971, section 3.

    Example:
        >>> import numpy as np
        >>> features, routing = np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")
        >>> CondConv2D(16, kernel_size=1, experts=4)([features, routing]).shape
        TensorShape([2, 8, 8, 16])
    """

    def __init__(self, filters: int, kernel_size: int, experts: int, **keywords: Any):
        super().__init__(kernel_size, experts, **keywords)
        self.filters = filters

    def _channels(self, inputs):
        return inputs, self.filters

    def _filters(self, inputs):
        return self.filters

    def _convolve(self, features, routing, training):
        if self.kernel_size > 1 or self.strides > 1 or self.form == "sum":
            fast = self._is_fast(features, training)
            return self._sum_of_outputs(ops.conv, features, ops.convert_to_tensor(self.kernel), routing, fast)
        channels = features.shape[-1]
        mixed = ops.matmul(routing, ops.reshape(self.kernel, (self.experts, channels * self.filters)))
        kernels = ops.reshape(mixed, (-1, channels, self.filters))
        _, height, width, _ = features.shape
        if height is None or width is None:
            _, height, width, _ = ops.shape(features)
        pixels = ops.reshape(features, (-1, height * width, channels))
        return ops.reshape(ops.matmul(pixels, kernels), (-1, height, width, self.filters))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class DepthwiseCondConv2D(_Experts):
    """Convolves each channel of each image with its own mixture of expert kernels.

    Takes `[features, routing]` as `CondConv2D` does. Each expert filters, and the outputs are summed. Inference on a
    known number of images mixes the kernels first in TensorFlow, and folds the batch into the channel axis, which saves
    a twentieth of a network's time on a CPU. The gradient is that of the sum: the gradient of the folded convolution is
    three times slower.

    Args:
        kernel_size, experts, strides, padding, use_bias, kernel_initializer, form: see `CondConv2D`.

    Source: Yang et al. 2019, arxiv.org/abs/1904.04971, section 4.

    Example:
        >>> import numpy as np
        >>> features, routing = np.ones((2, 8, 8, 3), "float32"), np.ones((2, 4), "float32")
        >>> DepthwiseCondConv2D(kernel_size=3, experts=4)([features, routing]).shape
        TensorShape([2, 8, 8, 3])
    """

    def _channels(self, inputs):
        return inputs, 1

    def _filters(self, inputs):
        return inputs

    def _convolve(self, features, routing, training):
        kernels = ops.convert_to_tensor(self.kernel)
        fast = self._is_fast(features, training)
        if training or not fast:
            return self._sum(features, kernels, routing, fast)
        return tf.custom_gradient(self._fold)(features, tf.identity(kernels), routing)

    def _sum(self, features, kernels, routing, fast):
        return self._sum_of_outputs(ops.depthwise_conv, features, kernels, routing, fast)

    def _fold(self, features, kernels, routing):
        side, channels = self.kernel_size, features.shape[-1]
        places = tf.transpose(tf.reshape(kernels, (self.experts, side * side, channels)), (1, 0, 2))
        kernel = tf.reshape(tf.matmul(routing, places), (side, side, -1, 1))
        sizes = [static or tf.shape(features)[axis] for axis, static in enumerate(features.shape[1:3], start=1)]
        folded = tf.reshape(tf.transpose(features, (1, 2, 0, 3)), (1, *sizes, -1))
        outputs = tf.nn.depthwise_conv2d(folded, kernel, [1, self.strides, self.strides, 1], self.padding.upper())
        unfolded = tf.reshape(outputs, (*map(self._output_size, sizes), -1, channels))
        unfolded = tf.transpose(unfolded, (2, 0, 1, 3))

        def gradient(upstream):
            sources = (features, kernels, routing)
            with tf.GradientTape() as tape:
                tape.watch(sources)
                outputs = self._sum(*sources, fast=True)
            return tape.gradient(outputs, sources, upstream)

        return unfolded, gradient
