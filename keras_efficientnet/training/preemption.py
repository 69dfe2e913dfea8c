"""What ends a run before its time, so that it can go on: SIGTERM of a scheduler or preempted machine; a lost host."""

import contextlib
import signal
import threading

import tensorflow as tf

from keras_efficientnet.training.devices import hosts, total

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


class Preempted(Exception):  # noqa: N818
    """The same command, started again, goes on from the last checkpoint."""


@contextlib.contextmanager
def watch(strategy: tf.distribute.Strategy):
    """Gives a function that says whether this process, or that of another host, has got SIGTERM.

    All hosts must ask it at the same step, and get the same answer.

    Raises:
        Preempted: another host is gone.
    """
    asked = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()  # only that one may set handlers
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set()) if in_main_thread else None
    try:
        yield lambda: total(strategy, int(asked.is_set())) > 0
    except LOST as error:
        if hosts(strategy) == 1 and not isinstance(strategy, tf.distribute.TPUStrategy):
            raise
        raise Preempted(f"A host or the TPU is gone: {error.message.splitlines()[0][:200]}") from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
