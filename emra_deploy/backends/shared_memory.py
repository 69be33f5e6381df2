"""The layout of the memory that `isolated` and its `worker` share."""

from __future__ import annotations

ALIGNMENT = 64
"""Outputs begin at multiples of this many bytes."""


def place(sizes: list[int]) -> list[int]:
    """Offsets of areas of these sizes in bytes, one after the other and aligned, and then where the last one ends."""
    offsets = [0]
    for size in sizes:
        offsets.append(-(-(offsets[-1] + size) // ALIGNMENT) * ALIGNMENT)
    return offsets
