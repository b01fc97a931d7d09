"""Memory of a program that does the same small step again and again."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
KEPT_BYTES = 256 << 20
LARGEST_FROM_HEAP = 32 << 20  # the most glibc takes


def keep_freed_memory() -> bool:
    """Let this process keep what it frees instead of giving it back to the system at once, where the C library is glibc.

    A step of a large model replaces states of megabytes; glibc returns the old ones to the system and asks for new pages,
    and the faults cost up to a quarter of the step on a virtual machine. For programs, not for libraries: it
    changes the whole process. From outside: ``MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432``.

    Returns:
        Whether it was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, LARGEST_FROM_HEAP))
