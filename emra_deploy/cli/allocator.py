"""The memory allocator of a process that is all ours."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h of glibc
_LARGE = 2**20


def return_large_arrays() -> None:
    """Give the memory of large arrays back as soon as they are freed.

    glibc keeps freed blocks of up to 32 MB for later, in each thread that made some. The rows of a wide raster are of
    that size, are made by one thread and freed by another, and would be held several times over. Other allocators
    are left as they are. Not for a library to do: the setting is the whole process's.
    """
    _tell_glibc(_M_MMAP_THRESHOLD, _LARGE)


def share_one_arena() -> None:
    """Let all threads that begin from now on allocate from one arena.

    glibc gives each thread an arena of its own, and what one thread allocates and another frees makes each of them
    grow for hours: following an RTSP camera for 21,600 frames with an overlay, resident memory grew by 1.9 % after
    warm-up, and by 0.3 % with one arena. As `return_large_arrays`, for a process that is all ours.
    """
    _tell_glibc(_M_ARENA_MAX, 1)


def _tell_glibc(setting: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(setting, value)
