"""The optimizers of the published recipes that Keras lacks, their learning rates over time, and averaged weights."""

import keras
from keras import ops

DECOUPLED = ("adamw", "lamb")  # their weight decay shrinks the weights, and is not in the loss
POLY_END = 0.1  # the learning rate at the end of the official poly schedule, whatever its peak: made for LARS


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class RMSprop(keras.optimizers.Optimizer):
    """RMSprop with momentum as TensorFlow 1 has it, with which the EfficientNets were trained.

    The mean square starts at one, epsilon is inside the root, and the learning rate goes into the momentum. Keras's
    own starts at zero: its first step is 21 times as large.

    Args:
        learning_rate: a number or a schedule.
        rho: decay of the mean square, in [0, 1).
        momentum: in [0, 1).
        epsilon: added to the mean square.
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: tensorflow/python/training/rmsprop.py; the values, github.com/tensorflow/tpu, utils.build_optimizer.
    """

    start = "ones"  # of the mean square

    def __init__(self, learning_rate=0.016, rho=0.9, momentum=0.9, epsilon=1e-3, name="rmsprop", **arguments):
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._squares = [self.add_variable_from_reference(v, "mean_square", initializer=self.start) for v in variables]
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        square, momentum = self._squares[index], self._momenta[index]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(square, square + (1.0 - self.rho) * (ops.square(gradient) - square))
        step = rate * gradient / ops.sqrt(square + self.epsilon)
        self.assign(momentum, self.momentum * momentum + step)
        self.assign_sub(variable, momentum)

    def get_config(self):
        return super().get_config() | {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class RMSpropTorch(RMSprop):
    """RMSprop with momentum as PyTorch has it, of the recipes of NVIDIA (PyTorch) and MosaicML.

    The mean square starts at zero, epsilon is outside the root, and the learning rate outside the momentum.

    Args:
        learning_rate, rho, momentum, epsilon: as in `RMSprop`.

    Source: pytorch.org/docs/stable/generated/torch.optim.RMSprop.html, with `centered=False`.
    """

    start = "zeros"

    def __init__(self, learning_rate=0.005, rho=0.9, momentum=0.9, epsilon=1e-2, name="rmsprop_torch", **arguments):
        super().__init__(learning_rate, rho, momentum, epsilon, name, **arguments)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        square, momentum = self._squares[index], self._momenta[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(square, square + (1.0 - self.rho) * (ops.square(gradient) - square))
        self.assign(momentum, self.momentum * momentum + gradient / (ops.sqrt(square) + self.epsilon))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * momentum)


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class Momentum(keras.optimizers.Optimizer):
    """Gradient descent with momentum as TensorFlow 1 has it: the learning rate is outside the momentum.

    Keras's SGD has it inside, which differs while the rate changes.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: tensorflow/python/training/momentum.py.
    """

    def __init__(self, learning_rate=0.016, momentum=0.9, name="momentum", **arguments):
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.momentum = momentum

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        momentum = self._momenta[self._get_variable_index(variable)]
        self.assign(momentum, self.momentum * momentum + ops.cast(gradient, variable.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * momentum)

    def get_config(self):
        return super().get_config() | {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LARS(Momentum):
    """Momentum whose learning rate follows, for each kernel, the ratio of its norm to its gradient's.

    Biases and batch norms get the plain rate and no weight decay. The rate is inside the momentum.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        decay: weight decay of the kernels, within the ratio.
        trust: factor of the ratio.
        epsilon: added to the ratio's denominator.
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: You et al. 2017, arxiv.org/abs/1708.03888; github.com/tensorflow/tpu, lars_optimizer.py.
    """

    def __init__(
        self, learning_rate=0.016, momentum=0.9, decay=1e-5, trust=1e-3, epsilon=0.0, name="lars", **arguments
    ):
        super().__init__(learning_rate, momentum, name, **arguments)
        self.decay, self.trust, self.epsilon = decay, trust, epsilon

    def update_step(self, gradient, variable, learning_rate):
        momentum = self._momenta[self._get_variable_index(variable)]
        gradient, rate = (ops.cast(value, variable.dtype) for value in (gradient, learning_rate))
        if variable.name not in ("gamma", "beta", "bias"):
            rate = rate * self._ratio(ops.norm(ops.ravel(variable)), ops.norm(ops.ravel(gradient)))
            gradient = gradient + self.decay * variable
        self.assign(momentum, self.momentum * momentum + rate * gradient)
        self.assign_sub(variable, momentum)

    def _ratio(self, weight, gradient):
        usable = ops.logical_and(weight > 0, gradient > 0)
        denominator = ops.where(usable, gradient + self.decay * weight + self.epsilon, 1.0)
        return ops.where(usable, self.trust * weight / denominator, 1.0)

    def get_config(self):
        return super().get_config() | {"decay": self.decay, "trust": self.trust, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises in a line from 0 to `peak` in place of the first steps of another schedule.

    Args:
        schedule: a number or a schedule; it is asked for every step, counted from 0.
        peak: reached at step `warmup_steps`.
        warmup_steps: may be 0.
        shift: whether the other schedule begins after the warm-up, and not below it.
    """

    def __init__(self, schedule, peak: float, warmup_steps: int, shift: bool = False):
        self.schedule, self.peak, self.warmup_steps, self.shift = schedule, peak, warmup_steps, shift

    def __call__(self, step):
        step = ops.cast(step, "float32")
        asked = ops.maximum(step - self.warmup_steps, 0.0) if self.shift else step
        rate = self.schedule(asked) if callable(self.schedule) else self.schedule
        if not self.warmup_steps:
            return ops.cast(rate, "float32")
        return ops.where(step < self.warmup_steps, self.peak * step / self.warmup_steps, rate)

    def get_config(self):
        return {
            "schedule": self.schedule,
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "shift": self.shift,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})


def make_learning_rate(config, steps_per_epoch: float) -> WarmUp:
    """The official schedules: `config` is a TrainConfig; epochs are counted in steps, whole or not.

    Source: github.com/tensorflow/tpu, utils.build_learning_rate.
    """
    peak = config.base_learning_rate * config.train_batch_size / 256
    warmup_steps = int(config.lr_warmup_epochs * steps_per_epoch)
    after_warmup = max(config.train_steps - warmup_steps, 1)
    schedules = keras.optimizers.schedules
    schedule = {
        "exponential": lambda: schedules.ExponentialDecay(
            peak, steps_per_epoch * config.lr_decay_epoch, config.lr_decay_factor, staircase=True
        ),
        "cosine": lambda: schedules.CosineDecay(peak, config.train_steps),
        "cosine_after_warmup": lambda: schedules.CosineDecay(peak, after_warmup),
        "poly": lambda: schedules.PolynomialDecay(peak, after_warmup, POLY_END, power=2.0),
        "constant": lambda: peak,
    }[config.lr_schedule]()
    return WarmUp(schedule, peak, warmup_steps, shift=config.lr_schedule in ("cosine_after_warmup", "poly"))


def make_optimizer(config, learning_rate) -> keras.optimizers.Optimizer:
    """The optimizer that `config`, a TrainConfig, asks for. AdamW and LAMB are Keras's own."""
    name, decay = config.optimizer, config.weight_decay
    epsilon = {} if config.optimizer_epsilon is None else {"epsilon": config.optimizer_epsilon}
    make = {
        "rmsprop": lambda: RMSprop(learning_rate, **epsilon),
        "rmsprop_torch": lambda: RMSpropTorch(learning_rate, **epsilon),
        "sgd": lambda: keras.optimizers.SGD(learning_rate, name=name),
        "momentum": lambda: Momentum(learning_rate),
        "lars": lambda: LARS(learning_rate, decay=config.lars_weight_decay, epsilon=config.lars_epsilon),
        "lamb": lambda: keras.optimizers.Lamb(learning_rate, weight_decay=decay, name=name, **epsilon),
        "adamw": lambda: keras.optimizers.AdamW(learning_rate, weight_decay=decay, name=name, **epsilon),
    }
    return make[name]()


def average_decay(decay: float, step):
    """The decay of the averaged weights after `step`, counted from 1: small at first, so that they get going.

    Source: tf.train.ExponentialMovingAverage with `num_updates`.
    """
    step = ops.cast(step, "float32")
    return ops.minimum(decay, (1.0 + step) / (10.0 + step))
