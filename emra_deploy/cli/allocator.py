"""The memory allocator of a process that is all ours."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE = 2**20


def return_large_arrays() -> None:
    """Give the memory of large arrays back as soon as they are freed.

    glibc keeps freed blocks of up to 32 MB for later, in each thread that made some. The rows of a wide raster are of
    that size, are made by one thread and freed by another, and would be held several times over. Other allocators
    are left as they are. Not for a library to do: the setting is the whole process's.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
