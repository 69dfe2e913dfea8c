"""RMSprop as in TensorFlow 1, the official learning rates over time, and averaged weights."""

import keras
from keras import ops


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

    def __init__(self, learning_rate=0.016, rho=0.9, momentum=0.9, epsilon=1e-3, name="rmsprop", **arguments):
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._squares = [self.add_variable_from_reference(v, "mean_square", initializer="ones") for v in variables]
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
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises in a line from 0 to `peak` in place of the first steps of another schedule.

    Args:
        schedule: a number or a schedule; it is asked for every step, counted from 0.
        peak: reached at step `warmup_steps`.
        warmup_steps: may be 0.
    """

    def __init__(self, schedule, peak: float, warmup_steps: int):
        self.schedule, self.peak, self.warmup_steps = schedule, peak, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        if not self.warmup_steps:
            return ops.cast(rate, "float32")
        return ops.where(step < self.warmup_steps, self.peak * step / self.warmup_steps, rate)

    def get_config(self):
        return {"schedule": self.schedule, "peak": self.peak, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})


def make_learning_rate(config, steps_per_epoch: float) -> WarmUp:
    """The official schedules: `config` is a TrainConfig; epochs are counted in steps, whole or not.

    Source: github.com/tensorflow/tpu, utils.build_learning_rate.
    """
    peak = config.base_learning_rate * config.train_batch_size / 256
    schedules = keras.optimizers.schedules
    schedule = {
        "exponential": lambda: schedules.ExponentialDecay(
            peak, steps_per_epoch * config.lr_decay_epoch, config.lr_decay_factor, staircase=True
        ),
        "cosine": lambda: schedules.CosineDecay(peak, config.train_steps),
        "constant": lambda: peak,
    }[config.lr_schedule]()
    return WarmUp(schedule, peak, int(config.lr_warmup_epochs * steps_per_epoch))


def make_optimizer(config, learning_rate) -> keras.optimizers.Optimizer:
    """The optimizer that `config`, a TrainConfig, asks for."""
    return {"rmsprop": RMSprop, "sgd": keras.optimizers.SGD}[config.optimizer](learning_rate, name=config.optimizer)


def average_decay(decay: float, step):
    """The decay of the averaged weights after `step`, counted from 1: small at first, so that they get going.

    Source: tf.train.ExponentialMovingAverage with `num_updates`.
    """
    step = ops.cast(step, "float32")
    return ops.minimum(decay, (1.0 + step) / (10.0 + step))
