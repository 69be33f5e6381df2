"""The label map and its overviews before they become a COG: plain tiled GeoTIFFs, each half the size of the one before.

Overviews are made here and not by GDAL, which loses some errors of the disk while it makes them: checksums that are
known before writing can be compared with the finished file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.raster import open_dataset

BLOCK = 512
"""Side of the blocks of a finished label raster in pixels; the smallest overview is no larger."""

_SMALLEST_BLOCK = 16
"""Sides of TIFF blocks are multiples of this."""

_PIECE = 8 * BLOCK
"""Columns written at once."""


def halve_labels(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label for each 2 x 2 pixels: the most frequent, and of equally frequent ones the first from the top left.

    No data (255) counts only where there is nothing else. A last odd row or column is halved by itself.

    Args:
        labels: H x W uint8.

    Returns:
        ceil(H / 2) x ceil(W / 2) uint8.
    """
    if labels.shape[0] % 2 or labels.shape[1] % 2:
        labels = np.pad(labels, [(0, side % 2) for side in labels.shape], constant_values=IGNORE)
    first, second, third, fourth = (labels[row::2, column::2] for row in (0, 1) for column in (0, 1))
    halved: NDArray[np.uint8] = first.copy()
    # A label that occurs twice wins unless an earlier one does too; where all differ, the first that is data.
    for later in (second, third, fourth):
        np.copyto(halved, later, where=halved == IGNORE)
    pair = (first != IGNORE) & ((first == second) | (first == third) | (first == fourth))
    np.copyto(halved, second, where=~pair & (second != IGNORE) & ((second == third) | (second == fourth)))
    pair |= (second != IGNORE) & ((second == third) | (second == fourth))
    np.copyto(halved, third, where=~pair & (third != IGNORE) & (third == fourth))
    return halved


class LabelLevels:
    """Writer of a label map, by rows, and of its overviews.

    Rows are gathered to whole rows of blocks: a compressed block that is written twice would leave a hole behind.

    Args:
        rasterio: The module, within a session.
        path: Of the map; each overview has the name of the level above and ``.ovr``, where GDAL finds it.
        height: Rows of the whole map.
        width: Columns of the whole map.

    Attributes:
        paths: Of the map and its overviews, from large to small.
        dataset: The open map, for its tags and georeference.
    """

    def __init__(self, rasterio: Any, path: Path, height: int, width: int) -> None:
        self._levels: list[_Level] = []
        block = BLOCK
        try:
            while True:
                place = path.with_name(path.name + ".ovr" * len(self._levels))
                self._levels.append(_Level(rasterio, place, height, width, max(block, _SMALLEST_BLOCK)))
                if max(height, width) <= BLOCK:
                    break
                height, width, block = -(-height // 2), -(-width // 2), block // 2
        except BaseException:
            place.unlink(missing_ok=True)
            self.close()
            raise
        self.paths = [level.path for level in self._levels]
        self.dataset = self._levels[0].dataset

    @property
    def rows(self) -> int:
        """Rows of the map that were written."""
        return self._levels[0].written

    @property
    def sums(self) -> list[list[int]]:
        """CRC-32 of every `BLOCK` x `BLOCK` pixels of every level, row by row."""
        return [level.sums for level in self._levels]

    def write(self, rasterio: Any, labels: NDArray[np.uint8]) -> None:
        """Write the next rows: h x W uint8."""
        self._write(rasterio, 0, labels)

    def _write(self, rasterio: Any, number: int, labels: NDArray[np.uint8]) -> None:
        for whole in self._levels[number].write(rasterio, labels):
            if number + 1 < len(self._levels):
                self._write(rasterio, number + 1, halve_labels(whole))

    def finish(self) -> None:
        """Write everything to the disk."""
        for level in self._levels:
            level.finish()

    def close(self) -> None:
        """Close the files and delete them, all of them even if one fails."""
        with ExitStack() as stack:
            for level in self._levels:
                stack.callback(level.close)


class _Level:
    def __init__(self, rasterio: Any, path: Path, height: int, width: int, block: int) -> None:
        self.path, self._height = path, height
        self._rows = np.empty((min(block, height), width), np.uint8)
        self._filled = self._top = 0
        self._columns = -(-width // BLOCK)
        self.sums = [0] * (-(-height // BLOCK) * self._columns)
        self.dataset = open_dataset(
            rasterio,
            path,
            "w",
            height=height,
            width=width,
            count=1,
            dtype="uint8",
            nodata=IGNORE,
            tiled=True,
            blockxsize=BLOCK,
            blockysize=block,
            compress="deflate",
            zlevel=1,
            photometric="palette",
            bigtiff="IF_SAFER",
        )

    @property
    def written(self) -> int:
        return self._top + self._filled

    def write(self, rasterio: Any, labels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Whole rows of blocks as they were written; each is valid until the next is requested."""
        taken = 0
        while taken < labels.shape[0]:
            rows = min(len(self._rows) - self._filled, labels.shape[0] - taken)
            self._rows[self._filled : self._filled + rows] = labels[taken : taken + rows]
            self._filled += rows
            taken += rows
            if self._filled == len(self._rows) or self.written == self._height:
                self._flush(rasterio)
                whole = self._rows[: self._filled]
                self._top += self._filled
                self._filled = 0
                yield whole

    def _flush(self, rasterio: Any) -> None:
        # In pieces and with an axis of bands, because rasterio copies what it is given without one.
        for left in range(0, self._rows.shape[1], _PIECE):
            piece = self._rows[None, : self._filled, left : left + _PIECE]
            window = rasterio.windows.Window(left, self._top, piece.shape[2], self._filled)
            self.dataset.write(piece, [1], window=window)
        row = self._top // BLOCK * self._columns
        for column in range(self._columns):
            part = np.ascontiguousarray(self._rows[: self._filled, column * BLOCK : (column + 1) * BLOCK])
            self.sums[row + column] = zlib.crc32(part.data, self.sums[row + column])

    def finish(self) -> None:
        self._rows = np.empty((0, 0), np.uint8)
        self.dataset.close()

    def close(self) -> None:
        try:
            if not self.dataset.closed:
                self.dataset.close()
        finally:
            self.path.unlink(missing_ok=True)
