"""Layout of an engine's inputs and outputs in memory: plain arithmetic, independent of TensorRT and CUDA."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine.

    Attributes:
        name: Name of the tensor.
        shape: Its sizes; the first is the batch, -1 if dynamic.
        dtype: NumPy type of its elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def size(self, batch: int) -> int:
        """Bytes for a batch."""
        return batch * math.prod(self.shape[1:]) * self.dtype.itemsize

    def view(self, memory: npt.NDArray[np.uint8], batch: int) -> npt.NDArray[np.generic]:
        """The tensor in the first bytes of ``memory``."""
        return memory[: self.size(batch)].view(self.dtype).reshape(batch, *self.shape[1:])


def chunks(count: int, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """Split a batch into runs that an engine accepts.

    Args:
        count: Pictures of the batch.
        low: Smallest batch of the engine.
        high: Largest batch of the engine.

    Yields:
        First picture, number of pictures, and the size of the run, which is larger when it has to be padded.
    """
    for start in range(0, count, high):
        used = min(high, count - start)
        yield start, used, max(used, low)
