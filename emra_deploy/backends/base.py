"""The one interface of everything that labels a batch of pictures, and the base of what wraps it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

Outputs = dict[str, npt.NDArray[Any]]
"""``classes`` uint8 B×H×W always; ``logits`` float32 B×C×H×W and ``confidence`` B×H×W where the model has them."""


class Backend(Protocol):
    """Runs one loaded model. `run` may be called by several threads at once."""

    @property
    def name(self) -> str:
        """Short name, such as ``"onnxruntime"``."""
        ...

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch size (None if any is accepted), height and width of the model's input."""
        ...

    @property
    def manifest(self) -> Manifest:
        """The model's description of itself."""
        ...

    def describe(self) -> dict[str, str]:
        """Library, version, device and threads, for people."""
        ...

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch.

        Args:
            batch: uint8 B×H×W×3, RGB; H and W as in `input_shape`, any B from 1 up.

        Returns:
            The outputs for these B pictures.

        Raises:
            EmraError: ``batch-shape`` for another type or shape; ``closed`` after `close`.
        """
        ...

    def close(self) -> None:
        """Free what the model holds; again, it does nothing. `describe` still answers."""
        ...


class Wrapper:
    """A backend that forwards every call to another one. Subclasses time, count or record runs; wrappers nest.

    Args:
        backend: The wrapped backend, which `close` closes.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def name(self) -> str:
        """Of the wrapped backend."""
        return self.backend.name

    @property
    def manifest(self) -> Manifest:
        """Of the wrapped backend."""
        return self.backend.manifest

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Of the wrapped backend."""
        return self.backend.input_shape

    def describe(self) -> dict[str, str]:
        """Of the wrapped backend."""
        return self.backend.describe()

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch with the wrapped backend."""
        return self.backend.run(batch)

    def close(self) -> None:
        """Close the wrapped backend."""
        self.backend.close()


def check_batch(batch: npt.NDArray[np.uint8], input_shape: tuple[int | None, int, int]) -> None:
    """Refuse an array that is not a batch of this input shape.

    Raises:
        EmraError: ``batch-shape``.
    """
    _, height, width = input_shape
    if batch.dtype != np.uint8 or batch.ndim != 4 or len(batch) < 1 or batch.shape[1:] != (height, width, 3):
        raise EmraError(
            "batch-shape",
            f"batch is {batch.dtype} {batch.shape}, expected uint8 (B, {height}, {width}, 3) with B of at least 1",
            "Cut the picture into tiles of the model's input size, or use Segmenter, which does",
        )
