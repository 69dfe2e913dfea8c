"""TensorFlow on a CPU without two costs that are none of the network's. Standard library only.

As TensorFlow comes, about half of a training step's time goes into memory that the C library returns to the system
after each operation and asks for again, and into kernels slower than oneDNN's, on processors without AVX-512 VNNI.
"""

import ctypes
import os
import platform
import sys

# Parameters of glibc's mallopt (malloc.h), and how large allocations stay in the process
MALLOPT = {
    -4: 0,  # M_MMAP_MAX: none has a mapping of its own, which the system would clear page by page
    -1: -1,  # M_TRIM_THRESHOLD: freed memory is never returned
    -8: 1,  # M_ARENA_MAX: what one thread frees serves all threads
    -2: 64 * 2**20,  # M_TOP_PAD, bytes: the heap grows in large steps
}


def tune_cpu() -> tuple[str, ...]:
    """Makes this process keep the memory that it frees, and TensorFlow use oneDNN. `main.py` and the scripts call it.

    Call it at the start of a program, before TensorFlow or Keras is imported and before the first thread starts: oneDNN
    cannot be turned on later, and a thread may reuse what an earlier one left and go on returning memory.

    What the environment says stays: TF_ENABLE_ONEDNN_OPTS, glibc's MALLOC_... and GLIBC_TUNABLES, any LD_PRELOAD, which
    may bring another allocator.

    oneDNN changes the last digits of single precision. Both are for Linux with glibc on x86-64 processors; elsewhere
    (macOS, Windows, musl, ARM) nothing is done, and TensorFlow runs as it comes.

    Returns:
        What is in effect: "memory", "onednn", both or neither.

    Example:
        >>> import keras_efficientnet
        >>> done = keras_efficientnet.tune_cpu()  # then: import keras

    Source: www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
    """
    if platform.machine() != "x86_64" or not _has_glibc():
        return ()
    done = []
    if not _names_allocator() and _keep_memory():
        done.append("memory")
    if "tensorflow" not in sys.modules and os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("1", "true"):
        done.append("onednn")
    return tuple(done)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def _names_allocator() -> bool:
    """Returns whether the environment chooses an allocator, or sets glibc's."""
    is_tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return is_tuned or bool(os.environ.get("LD_PRELOAD")) or any(name.startswith("MALLOC_") for name in os.environ)


def _keep_memory() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a Python that is linked with another C library
        return False
    return all([mallopt(parameter, value) == 1 for parameter, value in MALLOPT.items()])
