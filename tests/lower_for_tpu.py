r"""Compiles a complete training step for a TPU that need not exist: loss, gradients, update, averaged weights.

Not a test of the suite: it needs TensorFlow's TPU build in a separate environment, on Linux, Python 3.10 to 3.12:

  python -m venv tpu
  tpu/bin/pip install tensorflow-tpu==2.20.0 libtpu==0.0.20 "keras>=3.12" absl-py ai-edge-litert h5py ml-dtypes \
    safetensors tensorboard tqdm
  tpu/bin/python tests/lower_for_tpu.py [NETWORK]

An operation that a TPU lacks, or an unknown shape, is an error. Otherwise it prints the operations of the step.
"""

import os
import re
import sys
from collections import Counter
from pathlib import Path

# describes one host with four chips, so that TensorFlow does not ask the network for it
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import tensorflow as tf

from keras_efficientnet.optimizers import average_decay
from keras_efficientnet.recipes import make_config
from keras_efficientnet.training.state import TrainState, make_variant
from keras_efficientnet.training.steps import differentiate, make_loss


def make_step(state: TrainState):
    """Makes the step a function of the values of all variables, as the compiler needs for a device that is absent.

    Returns:
        The function, and the variables in four lists: trainable, other variables of the network, optimizer, averages.
    """
    variables = (
        state.model.trainable_variables,
        [v for v in state.model.variables if not any(v is trained for trained in state.model.trainable_variables)],
        state.optimizer.variables,
        state.average.weights,
    )
    compute_loss = make_loss(state)
    # Keras optimizers on TensorFlow look up and write variables directly and ignore the scope. The index has no public
    # name; without it the optimizer fails with a KeyError
    numbers = {id(variable): number for number, variable in enumerate(variables[0])}
    state.optimizer._get_variable_index = lambda variable: numbers[id(variable)]
    state.optimizer.assign = lambda variable, value: variable.assign(value)
    state.optimizer.assign_sub = lambda variable, value: variable.assign(variable - value)

    def step(trained, others, optimizers, averages, images, labels):
        values = (trained, others, optimizers, averages)
        mapping = [pair for group in zip(variables, values, strict=True) for pair in zip(*group, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss, gradients = differentiate(compute_loss, state, images, labels)
            done = state.optimizer.iterations + 1
            rate = state.learning_rate(state.optimizer.iterations)
            for variable, gradient in zip(variables[0], gradients, strict=True):
                state.optimizer.update_step(gradient, variable, rate)
            decay = average_decay(state.config.moving_average_decay, done)
            for average, variable in zip(state.average.weights, state.model.weights, strict=True):
                average.assign(average - (1.0 - decay) * (average - variable))
        return loss, done, [scope.get_current_value(v) for group in variables for v in group]

    return step, variables


def lower(name: str, images: int = 8) -> str:
    """Returns the step in the language of the compiler, for a TPU."""
    options = {"model_name": name, "recipe": "official", "precision": "bfloat16", "num_label_classes": 1000}
    config = make_config(**options, train_batch_size=images)
    state = TrainState(config, make_variant(config), 1_281_167, tf.distribute.get_strategy())
    step, variables = make_step(state)
    counts = [len(group) for group in variables]

    def flat(*values):
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        groups = [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return tf.nest.flatten(step(*groups, *values[ends[-1] :]))

    size = state.variant.resolution
    specs = [tf.TensorSpec(v.shape, v.dtype) for group in variables for v in group]
    specs += [tf.TensorSpec((images, size, size, 3)), tf.TensorSpec((images,), tf.int32)]
    compiled = tf.function(flat, jit_compile=True).experimental_get_compiler_ir(*specs)
    return compiled(stage="hlo", platform_name="TPU")


if __name__ == "__main__":
    text = lower(sys.argv[1] if len(sys.argv) > 1 else "efficientnet-b0")
    operations = Counter(re.findall(r"= \S+ ([a-z-]+)\(", text))
    for operation, count in operations.most_common():
        print(f"{count:7} {operation}")
    print(f"{sum(operations.values()):7} operations; the step is one program of a TPU")
