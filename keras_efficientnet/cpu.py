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
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD, bytes: freed memory is not returned
    -8: 1,  # M_ARENA_MAX: what one thread frees serves all threads
    -2: 64 * 2**20,  # M_TOP_PAD, bytes: the heap grows in large steps
}


def tune_cpu() -> tuple[str, ...]:
    """Makes this process keep the memory that it frees, and TensorFlow use oneDNN. `main.py` and the scripts call it.

    Call it before TensorFlow or Keras is imported: oneDNN cannot be turned on later, and threads that have started keep
    returning memory. What the environment already says
    stays: TF_ENABLE_ONEDNN_OPTS; MALLOC_..., glibc.malloc in GLIBC_TUNABLES, or another allocator in LD_PRELOAD.

    oneDNN changes the last digits of single precision. Both are for Linux with glibc on x86-64 processors; elsewhere
    (macOS, Windows, musl, ARM) nothing is done, and TensorFlow runs as it comes.

    Returns:
        What was done: "memory", "onednn", both or neither.

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
    if "tensorflow" not in sys.modules and os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1") == "1":
        done.append("onednn")
    return tuple(done)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def _names_allocator() -> bool:
    """Returns whether the environment chooses an allocator, or sets glibc's."""
    settings = os.environ.get("GLIBC_TUNABLES", "") + os.environ.get("LD_PRELOAD", "")
    return "malloc" in settings or any(name.startswith("MALLOC_") for name in os.environ)


def _keep_memory() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a Python that is linked with another C library
        return False
    return all([mallopt(parameter, value) == 1 for parameter, value in MALLOPT.items()])
