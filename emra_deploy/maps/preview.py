"""The overlay of a map of any size, reduced to a few thousand pixels and drawn while the map is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.model_file.classes import IGNORE, ClassSet
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import Window
from emra_deploy.segmenting.overlay import outline, overlay, shown_colours, with_legend

if TYPE_CHECKING:
    from emra_deploy.segmenting.areas import ClassArea

MAX_SIDE = 4096
"""Longest side of the overlay of a picture in memory in pixels, without its legend."""

STREAMED_SIDE = 2048
"""The same for a raster that is read by windows, where the overlay dominates memory: with the copies of the legend and
the encoder, 170 MB at 4096 pixels and 40 MB at 2048."""

_COLUMNS_AT_ONCE = 2048

NO_DATA = np.uint8(0)


class Preview:
    """An overlay, reduced by a whole factor when the picture's longer side exceeds ``max_side``.

    A reduced pixel has the mean colour of its group's pixels with data, and the label of the group's middle pixel: an
    average of labels would be another class. Without any data it is black, whatever colour is stored there.

    Args:
        source: The picture; it is read again, by windows.
        classes: Names and colours.
        opacity: Weight of the class colours, 0 to 1.
        max_side: Longest side in pixels.
        outlines: Draw the rims of all regions in opaque colours.
    """

    def __init__(
        self,
        source: ImageSource,
        classes: ClassSet,
        opacity: float = 0.5,
        max_side: int = MAX_SIDE,
        outlines: bool = False,
    ) -> None:
        self._source, self._classes, self._opacity, self._outlines = source, classes, opacity, outlines
        self.factor = -(-max(source.height, source.width) // max_side)
        height, width = -(-source.height // self.factor), -(-source.width // self.factor)
        self._middles = _middles(source.height, self.factor), _middles(source.width, self.factor)
        self._canvas = np.zeros((height, width, 3), np.uint8)
        self._labels = np.full((height, width), IGNORE, np.uint8)

    def add(self, top: int, labels: NDArray[np.uint8]) -> None:
        """Draw rows of the map.

        Args:
            top: First row, in pixels of the picture.
            labels: h x W uint8.
        """
        first, last = np.searchsorted(self._middles[0], [top, top + labels.shape[0]])
        if first == last:
            return
        rows = labels[self._middles[0][first:last] - top]
        self._labels[first:last] = rows[:, self._middles[1]]
        step = max(1, _COLUMNS_AT_ONCE // self.factor)
        for left in range(0, self._canvas.shape[1], step):
            right = min(left + step, self._canvas.shape[1])
            image = self._reduced(int(first), int(last), left, right)
            part = self._labels[first:last, left:right]
            self._canvas[first:last, left:right] = overlay(image, part, self._classes, self._opacity)

    def _reduced(self, first: int, last: int, left: int, right: int) -> NDArray[np.uint8]:
        factor = self.factor
        bottom, end = min(last * factor, self._source.height), min(right * factor, self._source.width)
        window = Window(first * factor, left * factor, bottom - first * factor, end - left * factor)
        image, held = self._source.read(window), self._source.valid(window)
        if held is not None:
            image = np.where(held[..., None], image, NO_DATA)
        if factor == 1:
            return image
        # Only the last groups may be shorter.
        rows, columns = (np.arange(0, length, factor) for length in image.shape[:2])

        def sums(pixels: NDArray[Any]) -> NDArray[Any]:
            added: NDArray[Any] = np.add.reduceat(
                np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1
            )
            return added

        count = sums(np.ones(image.shape[:2], np.uint32) if held is None else held)[..., None]
        # Pixels without data are `NO_DATA`, 0, and add nothing.
        means: NDArray[np.uint8] = ((sums(image) + count // 2) // np.maximum(count, 1)).astype(np.uint8)
        return means

    def save(self, path: Path, areas: Sequence[ClassArea] | None = None) -> None:
        """Write the overlay with its legend as PNG.

        Args:
            path: File to write; give the temporary file of `atomic_output`.
            areas: Shares to print beside the classes.
        """
        from PIL import Image

        shown = shown_colours(self._canvas, self._labels, self._classes, self._opacity)
        if self._outlines:
            outline(self._canvas, self._labels, self._classes)
        picture = Image.fromarray(with_legend(self._canvas, self._classes, areas, shown))
        # Level 6 takes three times as long for a few per cent on photographs.
        picture.save(path, format="PNG", compress_level=3)


def _middles(length: int, factor: int) -> NDArray[np.intp]:
    """The middle pixel of each group of ``factor``; the last group may be shorter."""
    starts = np.arange(0, length, factor)
    middles: NDArray[np.intp] = (starts + np.minimum(starts + factor, length) - 1) // 2
    return middles
