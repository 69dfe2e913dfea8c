"""Stopping a run so that it can resume: on Ctrl-C, on SIGTERM from a scheduler or machine, or when a host is lost."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from keras_efficientnet.runs import Preempted
from keras_efficientnet.training.devices import count_hosts, sum_over_replicas

HOST_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watch(strategy: tf.distribute.Strategy) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether this process, or that of another host, got SIGTERM or Ctrl-C.

    All hosts must call the function at the same step, and get the same answer.

    Raises:
        Preempted: another host was lost.
        KeyboardInterrupt: Ctrl-C came a second time.
    """
    signalled = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows handlers only there

    def handle(number, _):
        if number == signal.SIGINT and signalled.is_set():
            raise KeyboardInterrupt
        signalled.set()
        if number == signal.SIGINT:
            logging.warning("Stopping after the current steps, with a checkpoint. Press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, handle) for number in SIGNALS} if in_main_thread else {}
    try:
        yield lambda: sum_over_replicas(strategy, int(signalled.is_set())) > 0
    except HOST_LOST as error:
        if count_hosts(strategy) == 1 and not isinstance(strategy, tf.distribute.TPUStrategy):
            raise
        raise Preempted(f"A host or the TPU was lost: {error.message.splitlines()[0][:200]}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
