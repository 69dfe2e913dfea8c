"""The layers that Keras lacks."""

import contextlib

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation, by one fused kernel where TensorFlow has it.

    Keras 3 composes it of small operations; the kernel makes a training step of B0 1.4 times as fast on a CPU. Same
    arguments, weights and numbers: the moving variance follows the *biased* variance of the batch, as in Keras.
    `synchronized=True` looks at the images of `group` replicas together, of all by default, by one sum for each layer.
    Other backends, other ranks and masks take Keras's own way.
    """

    group: int | None = None

    def call(self, inputs, training=None, mask=None):
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
            return self._over_replicas(inputs)
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
            self._follow(mean, variance * (count - 1.0) / count)  # the kernel divides by count - 1
        return outputs

    def _over_replicas(self, inputs):
        x = tf.cast(inputs, "float32")
        sums = [tf.reduce_sum(x, (0, 1, 2)), tf.reduce_sum(tf.square(x), (0, 1, 2)), tf.ones_like(self.gamma.value)]
        sums[2] *= tf.cast(tf.reduce_prod(tf.shape(x)[:3]), "float32")
        total, squares, count = tf.unstack(_sum_over_replicas(tf.stack(sums), self.group))
        mean = total / count
        variance = tf.maximum(squares / count - tf.square(mean), 0.0)
        self._follow(mean, variance)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta.value, self.gamma.value, self.epsilon)
        return tf.cast(outputs, self.compute_dtype)

    def _follow(self, mean, variance):
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))


def _sum_over_replicas(x, group):
    """The sum of `x` over the `group` replicas to which this one belongs, or over all.

    No strategy sums over groups, but each sums a tensor with one row for each group.
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
    """Draws the kernels of all experts, [experts, ...], as an initializer draws one: its fan does not count them.

    Args:
        initializer: of one kernel; an initializer, its name or its configuration.
    """

    def __init__(self, initializer):
        self.initializer = keras.initializers.get(initializer)

    def __call__(self, shape, dtype=None, **keywords):
        one = self.initializer
        if isinstance(one, keras.initializers.VarianceScaling):  # Keras takes the experts for places of the window
            together = {"scale": one.scale * shape[0], "mode": one.mode, "distribution": one.distribution}
            return keras.initializers.VarianceScaling(**together, seed=one.seed)(shape, dtype=dtype, **keywords)
        settings = one.get_config()
        seeds = settings.get("seed")
        each = [one.clone() for _ in range(shape[0])]  # a clone of one without a seed draws anew
        if isinstance(seeds, int):
            each = [type(one).from_config({**settings, "seed": seeds + expert}) for expert in range(shape[0])]
        return ops.stack([draw(shape[1:], dtype=dtype, **keywords) for draw in each])

    def get_config(self):
        return {"initializer": keras.initializers.serialize(self.initializer)}


def _add(tensors):
    """The sum, in one pass over memory where that can be had; when exporting not, as LiteRT is slow at that."""
    if keras.backend.backend() == "tensorflow" and _folding:
        return tf.add_n(tensors)
    return sum(tensors[1:], tensors[0])


class _Experts(keras.layers.Layer):
    """What the two convolutions share: their kernels, and the sum over experts of what each puts out."""

    def __init__(
        self,
        kernel_size,
        experts,
        *,
        strides=1,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        **keywords,
    ):
        super().__init__(**keywords)
        for name, value in (("kernel_size", kernel_size), ("experts", experts), ("strides", strides)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a whole number, at least 1. Received: {name}={value}")
        if padding not in ("same", "valid"):
            raise ValueError(f"`padding` must be 'same' or 'valid'. Received: padding={padding!r}")
        self.kernel_size, self.experts, self.strides, self.padding = kernel_size, experts, strides, padding
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        features, routing = input_shape
        if routing[-1] != self.experts:
            raise ValueError(f"`routing` must be [batch, {self.experts}], as `experts`. Received: shape={routing}")
        shape = (self.experts, self.kernel_size, self.kernel_size, *self._channels(features[-1]))
        self.kernel = self.add_weight(shape=shape, initializer=PerExpert(self.kernel_initializer), name="kernel")
        if self.use_bias:
            filters = self._filters(features[-1])
            self.bias = self.add_weight(shape=(filters,), initializer="zeros", name="bias")

    def call(self, inputs, training=None):
        outputs = self._convolve(*inputs, training)
        return outputs + ops.convert_to_tensor(self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        features, _ = input_shape
        sizes = [self._shrink(size) for size in features[1:3]]
        return (features[0], *sizes, self._filters(features[-1]))

    def _shrink(self, size):
        if size is None:
            return None
        room = 0 if self.padding == "same" else self.kernel_size - 1
        return -(-(size - room) // self.strides)

    def _sum_of_outputs(self, convolve, features, kernels, routing):
        weights = ops.split(ops.reshape(routing, (-1, 1, 1, self.experts)), self.experts, axis=-1)
        options = {"strides": self.strides, "padding": self.padding}
        outputs = [
            convolve(features, kernel, **options) * weight
            for kernel, weight in zip(ops.unstack(kernels, self.experts), weights, strict=True)
        ]
        return _add(outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "experts": self.experts,
            "strides": self.strides,
            "padding": self.padding,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class CondConv2D(_Experts):
    """A convolution whose kernel is, for each image, a weighted sum of those of several experts.

    Takes `[features, routing]`: [batch, height, width, channels] and [batch, experts]. Any batch, also an unknown one.
    A kernel of one pixel is mixed first and applied by a batched product of matrices; larger ones are applied each,
    and their outputs summed, which is the same, as a convolution is linear.

    Args:
        filters: channels put out.
        kernel_size: side of the window, in pixels.
        experts: kernels to mix.
        strides: in pixels, both ways.
        padding: "same" or "valid".
        use_bias: whether to add a bias for each of the channels put out; it is one for all experts.
        kernel_initializer: of the kernel of one expert.

    Raises:
        ValueError: no expert, or a routing for another number of them.

    Source: Yang et al. 2019, arxiv.org/abs/1904.04971, section 3.
    """

    def __init__(self, filters, kernel_size, experts, **keywords):
        super().__init__(kernel_size, experts, **keywords)
        self.filters = filters

    def _channels(self, inputs):
        return inputs, self.filters

    def _filters(self, inputs):
        return self.filters

    def _convolve(self, features, routing, training):
        if self.kernel_size > 1 or self.strides > 1 or not _mixing:
            return self._sum_of_outputs(ops.conv, features, ops.convert_to_tensor(self.kernel), routing)
        channels = features.shape[-1]
        mixed = ops.matmul(routing, ops.reshape(self.kernel, (self.experts, channels * self.filters)))
        kernels = ops.reshape(mixed, (-1, channels, self.filters))
        _, height, width, _ = features.shape
        if height is None or width is None:
            _, height, width, _ = ops.shape(features)
        pixels = ops.reshape(features, (-1, height * width, channels))
        return ops.reshape(ops.matmul(pixels, kernels), (-1, height, width, self.filters))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class DepthwiseCondConv2D(_Experts):
    """As `CondConv2D`, but filters each channel alone.

    Each expert filters, and their outputs are summed. Inference on TensorFlow mixes the kernels first and takes the
    channels of all images for channels of one, which saves a twentieth of a network's time on a CPU. Its gradient is
    that of the sum: TensorFlow's own is three times slower there.

    Args:
        kernel_size, experts, strides, padding, use_bias, kernel_initializer: as in `CondConv2D`.

    Source: Yang et al. 2019, arxiv.org/abs/1904.04971, section 4.
    """

    def _channels(self, inputs):
        return inputs, 1

    def _filters(self, inputs):
        return inputs

    def _convolve(self, features, routing, training):
        kernels = ops.convert_to_tensor(self.kernel)
        if training or not _folding or keras.backend.backend() != "tensorflow" or features.shape[0] == 0:
            return self._sum(features, kernels, routing)
        return tf.custom_gradient(self._fold)(features, tf.identity(kernels), routing)

    def _sum(self, features, kernels, routing):
        return self._sum_of_outputs(ops.depthwise_conv, features, kernels, routing)

    def _fold(self, features, kernels, routing):
        side, channels = self.kernel_size, features.shape[-1]
        places = tf.transpose(tf.reshape(kernels, (self.experts, side * side, channels)), (1, 0, 2))
        kernel = tf.reshape(tf.matmul(routing, places), (side, side, -1, 1))
        sizes = [static or tf.shape(features)[axis] for axis, static in enumerate(features.shape[1:3], start=1)]
        folded = tf.reshape(tf.transpose(features, (1, 2, 0, 3)), (1, *sizes, -1))
        outputs = tf.nn.depthwise_conv2d(folded, kernel, [1, self.strides, self.strides, 1], self.padding.upper())
        unfolded = tf.reshape(outputs, (*map(self._shrink, sizes), -1, channels))
        unfolded = tf.transpose(unfolded, (2, 0, 1, 3))

        def gradient(upstream):
            sources = (features, kernels, routing)
            with tf.GradientTape() as tape:
                tape.watch(sources)
                outputs = self._sum(*sources)
            return tape.gradient(outputs, sources, upstream)

        return unfolded, gradient


_folding = _mixing = True


@contextlib.contextmanager
def summed_experts(pointwise: bool = False):
    """Has inference sum the experts' outputs too: the form for TFLite at any batch, and for SavedModels that train.

    Args:
        pointwise: whether kernels of one pixel are not mixed either; no kernel is computed then, as int8 needs it.
    """
    global _folding, _mixing
    before = _folding, _mixing
    _folding, _mixing = False, _mixing and not pointwise
    try:
        yield
    finally:
        _folding, _mixing = before
