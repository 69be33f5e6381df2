"""What a file is compared with: PyTorch, which it was exported from, or the file that it was converted from.

PyTorch is imported only where it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emra_deploy.errors import EmraError
from export.compare.runners import OnnxRunner, feed

if TYPE_CHECKING:
    from training.model import EMRAProxy


class Expected(Protocol):
    """The side that a file is compared with."""

    @property
    def name(self) -> str:
        """What it is, for the reports."""
        ...

    def logits(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 B x H x W x 3 -> float32 B x C x H x W."""
        ...

    def feed(self, tiles: np.ndarray) -> np.ndarray:
        """What the file's graph wants for these tiles."""
        ...

    def batches(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """Groups of tiles of sizes that the graph takes."""
        ...


@dataclass(frozen=True)
class Parent:
    """The file that another was made of, in ONNX Runtime.

    Attributes:
        runner: It.
    """

    runner: OnnxRunner
    name = "the file it was made of"

    def logits(self, tiles: np.ndarray) -> np.ndarray:
        """As `Expected.logits`."""
        found = self.runner.run(tiles).get("logits")
        if found is None:
            raise EmraError(
                "model-mismatch",
                "the graph has neither an output logits nor an ArgMax, so its logits cannot be compared",
                "Export the model again with python -m export.to_onnx",
            )
        return found

    def feed(self, tiles: np.ndarray) -> np.ndarray:
        """As `Expected.feed`."""
        return feed(self.runner.manifest, tiles)

    def batches(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """As `Expected.batches`."""
        return _batches(tiles, self.runner.manifest.input_shape[0])


@dataclass(frozen=True)
class Reference:
    """PyTorch's side of the comparison: `training.model.EMRAProxy` itself.

    The normalisation is done here in NumPy, so that nothing of `export.graphs.deployed` is on both sides.

    Attributes:
        model: In evaluation mode, with the weights as the file stores them.
        mean: Of RGB scaled to 0..1.
        std: Of the same.
        input_kind: What the exported graph takes, ``"uint8"`` or ``"float"``.
        batch: The batch size of the graph, None for any.
    """

    model: EMRAProxy
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_kind: str
    batch: int | None
    name = "PyTorch"

    def normalise(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 B x H x W x 3 -> float32 B x 3 x H x W."""
        unit = tiles.astype(np.float64) / 255
        planes = (unit - np.asarray(self.mean)) / np.asarray(self.std)
        return np.ascontiguousarray(planes.transpose(0, 3, 1, 2), dtype=np.float32)

    def logits(self, tiles: np.ndarray) -> np.ndarray:
        """uint8 B x H x W x 3 -> float32 B x C x H x W."""
        import torch

        with torch.inference_mode():
            return self.model(torch.from_numpy(self.normalise(tiles))).numpy()

    def feed(self, tiles: np.ndarray) -> np.ndarray:
        """What the exported graph wants for these tiles."""
        return tiles if self.input_kind == "uint8" else self.normalise(tiles)

    def batches(self, tiles: np.ndarray) -> Iterator[np.ndarray]:
        """As `Expected.batches`."""
        return _batches(tiles, self.batch)


def _batches(tiles: np.ndarray, batch: int | None) -> Iterator[np.ndarray]:
    """Batches of a fixed size, the last one filled up; or of sizes 1 and 2 where any will do."""
    if batch is None:
        yield tiles[:1]
        for start in range(1, len(tiles), 2):
            yield tiles[start : start + 2]
        return
    for start in range(0, len(tiles), batch):
        group = tiles[start : start + batch]
        yield np.concatenate([group, np.repeat(group[-1:], batch - len(group), axis=0)])
