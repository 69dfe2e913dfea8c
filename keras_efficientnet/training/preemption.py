"""What ends a run before its time, so that it can go on: Ctrl-C, SIGTERM of a scheduler or machine; a lost host."""

import contextlib
import logging
import signal
import threading

import tensorflow as tf

from keras_efficientnet.training.devices import hosts, total

LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


ENDING = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):  # noqa: N818
    """The same command, started again, goes on from the last checkpoint."""


@contextlib.contextmanager
def watch(strategy: tf.distribute.Strategy):
    """Gives a function that says whether this process, or that of another host, has got SIGTERM or Ctrl-C.

    All hosts must ask it at the same step, and get the same answer.

    Raises:
        Preempted: another host is gone.
        KeyboardInterrupt: Ctrl-C came a second time.
    """
    asked = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()  # only that one may set handlers

    def end(number, _):
        if number == signal.SIGINT and asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if number == signal.SIGINT:
            logging.warning("Ends after the steps that are under way, with a checkpoint. Ctrl-C again ends at once.")

    before = {number: signal.signal(number, end) for number in ENDING} if in_main_thread else {}
    try:
        yield lambda: total(strategy, int(asked.is_set())) > 0
    except LOST as error:
        if hosts(strategy) == 1 and not isinstance(strategy, tf.distribute.TPUStrategy):
            raise
        raise Preempted(f"A host or the TPU is gone: {error.message.splitlines()[0][:200]}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
