"""Blending of overlapping tiles: a pixel's label is decided by the weighted average over all of its tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import Window

BLEND_DIVISOR = 4
"""Blended tiles overlap by half: each pixel away from the border is seen by four."""

_LEAST = 1e-3
"""Weight at the edge of a tile, above 0 so that a pixel covered by one tile is decided by that tile."""


def taper(length: int) -> npt.NDArray[np.float32]:
    """Weights along one side of a tile: sin² from edge to edge, float32 in (0, 1].

    Two such windows at half a tile's distance add up to the same weight everywhere (the Hann window's property).
    """
    centres = (np.arange(length) + 0.5) / length
    weights: npt.NDArray[np.float32] = np.maximum(np.sin(np.pi * centres) ** 2, _LEAST).astype(np.float32)
    return weights


def class_shares(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax over the classes: float32 C×h×w of logits C×h×w."""
    shares: npt.NDArray[np.float32] = logits - logits.max(axis=0)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=0)
    return shares


class Blender:
    """Sums the class probabilities of tiles from top to bottom, and returns rows that no later tile touches.

    Memory is one band of the picture's width and a tile's height, with (C + 1) x 4 bytes per pixel.

    Args:
        width: Width of the picture, in pixels.
        classes: C.
        tile: Height and width of the tiles, in pixels.
        top: First row that a tile touches.

    Attributes:
        top: First row not yet returned.
    """

    def __init__(self, width: int, classes: int, tile: tuple[int, int], top: int = 0) -> None:
        self._shares = np.zeros((classes, tile[0], width), np.float32)
        self._weights = np.zeros((tile[0], width), np.float32)
        self._valid = np.ones((tile[0], width), bool)
        self._taper = taper(tile[0])[:, None] * taper(tile[1])
        self.top = top

    def add(
        self, read: Window, logits: npt.NDArray[np.float32] | None, valid: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Add one tile.

        Args:
            read: Its window in the picture; not above rows already returned.
            logits: C×h×w of the window, or None for a tile without data.
            valid: Mask of the window's pixels with data, bool h×w, or None if all have data.
        """
        down, across = slice(read.top - self.top, read.bottom - self.top), slice(read.left, read.right)
        if valid is not None:
            self._valid[down, across] = valid
        if logits is None:
            return
        weights = self._taper[: read.height, : read.width]
        self._shares[:, down, across] += class_shares(logits) * weights
        self._weights[down, across] += weights

    def rows(self, bottom: int) -> tuple[Window, npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Return the rows above row ``bottom`` of the picture; no later tile may start above it.

        Returns:
            The window, of the picture's full width; labels uint8 h×W, 255 without data; and the winning class's
            mean probability, float32 h×W, 0 without data.
        """
        count = bottom - self.top
        shares, valid = self._shares[:, :count], self._valid[:count]
        labels = shares.argmax(axis=0).astype(np.uint8)
        confidence = shares.max(axis=0) / np.maximum(self._weights[:count], np.float32(_LEAST**2))
        labels[~valid] = IGNORE
        confidence[~valid] = 0
        window = Window(self.top, 0, count, labels.shape[1])
        self.top = bottom
        for band, empty in ((self._shares, 0.0), (self._weights, 0.0), (self._valid, True)):
            rows = band.shape[-2]
            band[..., : rows - count, :] = band[..., count:, :].copy()
            band[..., rows - count :, :] = empty
        return window, labels, confidence
