"""One of several branches of a graph, of which only that one costs time."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def choose(number, branches: Sequence[Callable], *inputs):
    """What branch `number` makes of the inputs; each gives one tensor, all of one type.

    tf.cond and tf.switch_case do the same, but in a pipeline they visit every node of every branch: with AutoAugment's
    50 branches that took longer than the operations.

    Args:
        number: int32 scalar; or a bool, for the second of two branches where it is true.
        branches: functions of the inputs.
        *inputs: tensors.
    """
    if tf.executing_eagerly():
        return branches[int(number)](*inputs)
    functions = [tf.function(branch, autograph=False).get_concrete_function(*inputs) for branch in branches]
    chosen = tf.raw_ops.StatelessCase(
        branch_index=tf.cast(number, tf.int32),
        input=list(inputs),
        Tout=[functions[0].outputs[0].dtype],
        branches=functions,
    )
    return chosen[0]
