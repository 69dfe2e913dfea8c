r"""Lowers a whole training step for a TPU, without one: forward, backward, update, average, dropout, stochastic depth.

Not a test of the suite: it needs TensorFlow's TPU build in an environment of its own, on Linux, Python 3.10 to 3.12:

  python -m venv tpu
  tpu/bin/pip install tensorflow-tpu==2.20.0 libtpu==0.0.20 "keras>=3.12" absl-py ai-edge-litert h5py ml-dtypes \
    safetensors tensorboard tqdm
  tpu/bin/python tests/lower_for_tpu.py [NETWORK]

An operation that a TPU lacks, or a shape that is not known, is an error; else it prints what the step is made of.
"""

import os
import re
import sys
from collections import Counter
from pathlib import Path

# one host with four chips, by description: nothing is looked up in a network
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
from keras_efficientnet.training import steps
from keras_efficientnet.training.state import Run, make_variant


def make_step(run: Run):
    """The step as a function of the values of all variables, which the compiler wants for a device that is not there.

    Returns:
        The function, and the variables in four lists: trained, others of the network, optimizer's, averaged.
    """
    variables = (
        run.model.trainable_variables,
        [v for v in run.model.variables if not any(v is trained for trained in run.model.trainable_variables)],
        run.optimizer.variables,
        run.average.weights,
    )
    loss_of = steps._make_loss(tf.distribute.get_strategy(), run)
    # Keras's optimizers on TensorFlow know and write the variables themselves, past the scope
    numbers = {id(variable): number for number, variable in enumerate(variables[0])}
    run.optimizer._get_variable_index = lambda variable: numbers[id(variable)]
    run.optimizer.assign = lambda variable, value: variable.assign(value)
    run.optimizer.assign_sub = lambda variable, value: variable.assign(variable - value)

    def step(trained, others, optimizers, averages, images, labels):
        values = (trained, others, optimizers, averages)
        mapping = [pair for group in zip(variables, values, strict=True) for pair in zip(*group, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss, gradients = steps._differentiate(loss_of, run, images, labels)
            done = run.optimizer.iterations + 1
            rate = run.learning_rate(run.optimizer.iterations)
            for variable, gradient in zip(variables[0], gradients, strict=True):
                run.optimizer.update_step(gradient, variable, rate)
            decay = average_decay(run.config.moving_average_decay, done)
            for average, variable in zip(run.average.weights, run.model.weights, strict=True):
                average.assign(average - (1.0 - decay) * (average - variable))
        return loss, done, [scope.get_current_value(v) for group in variables for v in group]

    return step, variables


def lower(name: str, images: int = 8) -> str:
    """The step in the compiler's language, for a TPU."""
    options = {"model_name": name, "recipe": "official", "precision": "bfloat16", "num_label_classes": 1000}
    config = make_config(**options, train_batch_size=images)
    run = Run(config, make_variant(config), 1_281_167, tf.distribute.get_strategy())
    step, variables = make_step(run)
    counts = [len(group) for group in variables]

    def flat(*values):
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        groups = [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        return tf.nest.flatten(step(*groups, *values[ends[-1] :]))

    size = run.variant.resolution
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
