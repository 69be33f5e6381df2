"""Tiles that live in memory, so that a test knows every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emra_deploy.pictures.windows import Window
from training.data import Tile
from training.data.codecs import ColourCodec

COLOURS = np.array(
    [(11, 200, 97), (241, 13, 52), (90, 61, 230), (203, 180, 33), (37, 119, 171), (160, 90, 5), (70, 250, 240)],
    np.uint8,
)
"""Of labels 0 to 6; no blend of some of them is another one."""


@dataclass(frozen=True)
class ArrayTile(Tile):
    """A tile whose pixels are arrays."""

    image: np.ndarray | None = None
    labels: np.ndarray | None = None

    def read_image(self, window: Window | None = None) -> np.ndarray:
        """Implement `Tile.read_image`."""
        return self.image[self._inside(window).slices].copy()

    def read_labels(self, window: Window | None = None) -> np.ndarray:
        """Implement `Tile.read_labels`."""
        return self.labels[self._inside(window).slices].copy()


def tile_of(labels: np.ndarray, image: np.ndarray | None = None, name: str = "tile") -> ArrayTile:
    """A tile of these labels, whose picture is their colours unless one is given."""
    codec = ColourCodec(((1, 1, 1), (2, 2, 2)))
    picture = COLOURS[labels] if image is None else image
    return ArrayTile(name, Path(name), Path(name), *labels.shape, codec, image=picture, labels=labels)


def blocks(seed: int, height: int, width: int, side: int) -> np.ndarray:
    """Labels 0 to 6 in squares of a side, uint8 H×W."""
    rows, columns = -(-height // side), -(-width // side)
    coarse = np.random.default_rng(seed).integers(0, len(COLOURS), (rows, columns), dtype=np.uint8)
    return np.kron(coarse, np.ones((side, side), np.uint8))[:height, :width]


def decode(image: np.ndarray) -> np.ndarray:
    """Labels of pure colours, int H×W; -1 where a pixel is a blend or none of them."""
    found = (image[..., None, :] == COLOURS).all(axis=-1)
    return np.where(found.any(axis=-1), found.argmax(axis=-1), -1)
