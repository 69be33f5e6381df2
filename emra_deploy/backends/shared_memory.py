"""The layout of the memory that `isolated` and its `worker` share."""

from __future__ import annotations

ALIGNMENT = 64
"""Outputs begin at multiples of this many bytes."""


def place(sizes: list[int]) -> list[int]:
    """Aligned offsets of consecutive areas of these sizes in bytes, followed by the end of the last one."""
    offsets = [0]
    for size in sizes:
        offsets.append(-(-(offsets[-1] + size) // ALIGNMENT) * ALIGNMENT)
    return offsets
