"""Optimizers of the published recipes that Keras lacks, their learning rate schedules, and the weight average."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_efficientnet.config import TrainConfig

DECOUPLED = ("adamw", "lamb")  # these optimizers decay the weights themselves, so the loss has no weight decay
POLY_END = 0.1  # learning rate at the end of the official poly schedule, made for LARS; independent of the peak

Tensor = Any  # a backend tensor; Keras has no public type for it
Rate = float | Callable[[Tensor], Tensor]  # a learning rate or a schedule, step -> rate


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class RMSprop(keras.optimizers.Optimizer):
    """RMSprop with momentum as in TensorFlow 1, with which the EfficientNets were trained.

    The mean square starts at one, epsilon is inside the square root, and the momentum accumulates steps that include
    the learning rate. The mean square of Keras's RMSprop starts at zero, which makes its first step 21 times as large.

    Args:
        learning_rate: a number or a schedule.
        rho: decay of the mean square, in [0, 1).
        momentum: in [0, 1).
        epsilon: added to the mean square.
        name: of the optimizer.
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: tensorflow/python/training/rmsprop.py; default values: github.com/tensorflow/tpu, utils.build_optimizer.
    """

    start: ClassVar[str] = "ones"  # initializer of the mean square

    def __init__(
        self,
        learning_rate: Rate = 0.016,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        name: str = "rmsprop",
        **arguments: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._squares = [self.add_variable_from_reference(v, "mean_square", initializer=self.start) for v in variables]
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)  # as in Keras's own optimizers; no public counterpart
        square, momentum = self._squares[index], self._momenta[index]
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(square, square + (1.0 - self.rho) * (ops.square(gradient) - square))
        step = rate * gradient / ops.sqrt(square + self.epsilon)
        self.assign(momentum, self.momentum * momentum + step)
        self.assign_sub(variable, momentum)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class RMSpropTorch(RMSprop):
    """RMSprop with momentum as in PyTorch, for the recipes of NVIDIA (PyTorch) and MosaicML.

    The mean square starts at zero, epsilon is outside the square root, and the learning rate scales the momentum.

    Args:
        learning_rate, rho, momentum, epsilon: as in `RMSprop`.

    Source: pytorch.org/docs/stable/generated/torch.optim.RMSprop.html, with `centered=False`.
    """

    start: ClassVar[str] = "zeros"

    def __init__(
        self,
        learning_rate: Rate = 0.005,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-2,
        name: str = "rmsprop_torch",
        **arguments: Any,
    ):
        super().__init__(learning_rate, rho, momentum, epsilon, name, **arguments)

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        square, momentum = self._squares[index], self._momenta[index]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign(square, square + (1.0 - self.rho) * (ops.square(gradient) - square))
        self.assign(momentum, self.momentum * momentum + gradient / (ops.sqrt(square) + self.epsilon))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * momentum)


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class Momentum(keras.optimizers.Optimizer):
    """Gradient descent with momentum as in TensorFlow 1: the learning rate scales the momentum.

    In Keras's SGD the momentum accumulates steps that include the learning rate. The two differ while the rate changes.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        name: of the optimizer.
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: tensorflow/python/training/momentum.py.
    """

    def __init__(self, learning_rate: Rate = 0.016, momentum: float = 0.9, name: str = "momentum", **arguments: Any):
        super().__init__(learning_rate=learning_rate, name=name, **arguments)
        self.momentum = momentum

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momenta = [self.add_variable_from_reference(v, "momentum") for v in variables]

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        momentum = self._momenta[self._get_variable_index(variable)]
        self.assign(momentum, self.momentum * momentum + ops.cast(gradient, variable.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * momentum)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LARS(Momentum):
    """Momentum that scales the learning rate of each kernel by the ratio of its norm to the norm of its gradient.

    Biases and batch norms get the plain learning rate and no weight decay. The momentum accumulates steps that include
    the learning rate.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        decay: weight decay of the kernels, part of the ratio.
        trust: factor of the ratio.
        epsilon: added to the denominator of the ratio.
        name: of the optimizer.
        **arguments: those of `keras.optimizers.Optimizer`.

    Source: You et al. 2017, arxiv.org/abs/1708.03888; github.com/tensorflow/tpu, lars_optimizer.py.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.016,
        momentum: float = 0.9,
        decay: float = 1e-5,
        trust: float = 1e-3,
        epsilon: float = 0.0,
        name: str = "lars",
        **arguments: Any,
    ):
        super().__init__(learning_rate, momentum, name, **arguments)
        self.decay, self.trust, self.epsilon = decay, trust, epsilon

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        momentum = self._momenta[self._get_variable_index(variable)]
        gradient, rate = (ops.cast(value, variable.dtype) for value in (gradient, learning_rate))
        if variable.name not in ("gamma", "beta", "bias"):
            rate = rate * self._ratio(ops.norm(ops.ravel(variable)), ops.norm(ops.ravel(gradient)))
            gradient = gradient + self.decay * variable
        self.assign(momentum, self.momentum * momentum + rate * gradient)
        self.assign_sub(variable, momentum)

    def _ratio(self, weight: Tensor, gradient: Tensor) -> Tensor:
        usable = ops.logical_and(weight > 0, gradient > 0)
        denominator = ops.where(usable, gradient + self.decay * weight + self.epsilon, 1.0)
        return ops.where(usable, self.trust * weight / denominator, 1.0)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"decay": self.decay, "trust": self.trust, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps rise linearly from 0 to `peak` before another schedule takes over.

    Args:
        schedule: learning rate after the warm-up: a number or a schedule.
        peak: learning rate at step `warmup_steps`.
        warmup_steps: may be 0.
        shift: whether step 0 of `schedule` is the end of the warm-up instead of the start of training.
    """

    def __init__(self, schedule: Rate, peak: float, warmup_steps: int, shift: bool = False):
        self.schedule, self.peak, self.warmup_steps, self.shift = schedule, peak, warmup_steps, shift

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        inner_step = ops.maximum(step - self.warmup_steps, 0.0) if self.shift else step
        rate = self.schedule(inner_step) if callable(self.schedule) else self.schedule
        if not self.warmup_steps:
            return ops.cast(rate, "float32")
        return ops.where(step < self.warmup_steps, self.peak * step / self.warmup_steps, rate)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule,
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "shift": self.shift,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """Makes the schedule that `get_config` describes."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})


def make_learning_rate(config: TrainConfig, steps_per_epoch: float) -> WarmUp:
    """Returns the learning rate schedule of a run.

    Args:
        config: options of the run.
        steps_per_epoch: may have a fraction.

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


def make_optimizer(config: TrainConfig, learning_rate: Rate) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a run. AdamW, LAMB and SGD are Keras's own."""
    name, decay = config.optimizer, config.weight_decay
    epsilon: dict[str, Any] = {} if config.optimizer_epsilon is None else {"epsilon": config.optimizer_epsilon}
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


def average_decay(decay: float, step: int | Tensor) -> Tensor:
    """Returns the decay of the weight average after `step`, counted from 1: small at first, then `decay`.

    Source: tf.train.ExponentialMovingAverage with `num_updates`.
    """
    step = ops.cast(step, "float32")
    return ops.minimum(decay, (1.0 + step) / (10.0 + step))
