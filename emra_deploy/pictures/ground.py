"""The ground that pixels cover, in square metres, for any coordinate reference system.

Areas of a survey grid such as UTM are those of its coordinates, which are true to `GRID_TOLERANCE`. In all others
(degrees, Mercator, polar, placed by control points) the raster is divided into cells, whose corners are put on the
ellipsoid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""n×2: columns and rows, or x and y."""

GRID_TOLERANCE = 0.002
"""Share by which areas in coordinates may differ from true ones: UTM's do by 0.0008 in the middle of a zone, and by
0.002 at its edge."""

_MAX_CELLS = 4096
"""Rows of cells where all columns have the same areas."""

_CELLS = 256
"""Cells a side elsewhere."""

_CELL_BYTES = 2**20
_NEGLIGIBLE = 1e-5
"""Share by which areas may differ along a row and yet count as alike."""

_ELLIPSOID = re.compile(r'ELLIPSOID\["[^"]*",\s*([\d.eE+]+),\s*([\d.eE+]+)(?:,\s*LENGTHUNIT\["[^"]*",\s*([\d.eE+-]+))?')


class PixelAreas:
    """Square metres of the pixels of a raster, constant within cells.

    Args:
        metres: Of one pixel in each cell, rows × columns.
        rows: First row of each cell, and the number of rows of the raster.
        columns: Likewise.

    Attributes:
        mean: Of all pixels.
        uniform: Of every pixel where all are alike, or None.
    """

    def __init__(self, metres: Points, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        self._metres, self._rows, self._columns = metres, rows, columns
        cells = metres * np.diff(rows)[:, None] * np.diff(columns)
        # Area of the rectangle from the raster's first corner to that of each cell.
        self._table = np.pad(cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        self.uniform = float(metres[0, 0]) if metres.size == 1 else None
        self.mean = float(self._table[-1, -1]) / (int(rows[-1]) * int(columns[-1]))

    @classmethod
    def alike(cls, metres: float, height: int, width: int) -> PixelAreas:
        """Those of a raster whose pixels all have the same area."""
        return cls(np.array([[metres]]), np.array([0, height]), np.array([0, width]))

    def of_labels(self, top: int, labels: NDArray[np.uint8]) -> Points:
        """Square metres of each of the 256 labels in rows of a map, uint8 h×W, the first of which is ``top``."""
        total = np.zeros(256)
        bottom = top + labels.shape[0]
        first, last = np.searchsorted(self._rows, [top, bottom - 1], side="right") - 1
        for row in range(int(first), int(last) + 1):
            part = labels[max(int(self._rows[row]), top) - top : min(int(self._rows[row + 1]), bottom) - top]
            for column, metres in enumerate(self._metres[row]):
                cell = part[:, self._columns[column] : self._columns[column + 1]]
                total += np.bincount(cell.reshape(-1), minlength=256) * metres
        return total

    def of_rings(self, rings: Sequence[Points]) -> float:
        """Square metres inside the first ring and outside the others, whose edges follow those of pixels."""
        areas = [abs(self._inside(ring)) for ring in rings]
        return areas[0] - sum(areas[1:])

    def _inside(self, ring: Points) -> float:
        # Green's theorem: the strips between the first column and each vertical edge, by their signs.
        columns, rows = ring.T
        inner = self._corner(columns, rows)
        upright = columns[1:] == columns[:-1]
        return float((inner[1:] - inner[:-1])[upright].sum())

    def _corner(self, columns: Points, rows: Points) -> Points:
        """Area of the rectangle from the raster's first corner to a point."""
        row = np.clip(np.searchsorted(self._rows, rows, side="right") - 1, 0, len(self._rows) - 2)
        column = np.clip(np.searchsorted(self._columns, columns, side="right") - 1, 0, len(self._columns) - 2)
        down = (rows - self._rows[row]) / (self._rows[row + 1] - self._rows[row])
        across = (columns - self._columns[column]) / (self._columns[column + 1] - self._columns[column])
        table = self._table
        upper = table[row, column] * (1 - across) + table[row, column + 1] * across
        lower = table[row + 1, column] * (1 - across) + table[row + 1, column + 1] * across
        found: Points = upper * (1 - down) + lower * down
        return found


def measure(place: Callable[[Points], Points], crs: Any, grid: float | None, height: int, width: int) -> PixelAreas:
    """The areas of a raster's pixels.

    Args:
        place: Coordinates of columns and rows.
        crs: Their coordinate reference system.
        grid: Square metres of a pixel in coordinates, None where these are no lengths or pixels differ.
        height: Rows of the raster.
        width: Columns.

    Raises:
        ValueError: The coordinates are not those of a place on an ellipsoid.
    """

    def cells(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Points:
        points = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float64)
        corners = on_ellipsoid(crs, place(points.reshape(-1, 2))).reshape(*points.shape[:2], 3)
        first, second = corners[1:, 1:] - corners[:-1, :-1], corners[1:, :-1] - corners[:-1, 1:]
        # Half the cross product of its diagonals is the area of a quadrilateral; beyond the earth there is none.
        areas = np.linalg.norm(np.cross(first, second), axis=-1) / 2
        found: Points = np.nan_to_num(areas) / np.diff(rows)[:, None] / np.diff(columns)
        return found

    sample = cells(_edges(height, 8), _edges(width, 8))
    if not sample.any():
        raise ValueError("no pixel lies on the ellipsoid")
    if grid is not None and np.max(np.abs(sample / grid - 1)) < GRID_TOLERANCE:
        return PixelAreas.alike(grid, height, width)
    if np.max(np.ptp(sample, axis=1)) < _NEGLIGIBLE * np.max(sample):
        # Along a row all are alike: one narrow column of cells stands for it, and there may be more rows of them.
        rows = _edges(height, max(_MAX_CELLS, height * width // _CELL_BYTES))
        middle = width // 2 + np.array([0, max(1, width // _CELLS)])
        return PixelAreas(cells(rows, middle), rows, np.array([0, width]))
    rows, columns = _edges(height, _CELLS), _edges(width, _CELLS)
    return PixelAreas(cells(rows, columns), rows, columns)


def _edges(length: int, cells: int) -> NDArray[np.int64]:
    count = min(length, cells)
    return np.arange(count + 1, dtype=np.int64) * length // count


def has_ellipsoid(crs: Any) -> bool:
    """Whether a coordinate reference system is one of the earth or another body, and not of a site."""
    return _ellipsoid(crs) is not None


def _ellipsoid(crs: Any) -> re.Match[str] | None:
    return _ELLIPSOID.search(crs.to_wkt(version="WKT2_2019"))


def on_ellipsoid(crs: Any, points: Points) -> Points:
    """Metres from the centre of the ellipsoid, n×3, of coordinates; not a number beyond the poles.

    Raises:
        ValueError: The system has no ellipsoid, as those of sites, or a point lies beyond its domain.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform

    found = _ellipsoid(crs)
    if found is None:
        raise ValueError("the coordinate reference system has no ellipsoid")
    try:
        large, inverse, metres = float(found[1]), float(found[2]), float(found[3] or 1)
        large *= metres
        flat = 1 / inverse if inverse else 0.0
        degrees = CRS.from_proj4(f"+proj=longlat +a={large!r} +b={large * (1 - flat)!r} +no_defs")
        longitude, latitude = (np.radians(values) for values in transform(crs, degrees, *points.T))
    except (CRSError, CPLE_BaseError) as error:
        raise ValueError(str(error)) from error
    latitude[np.abs(latitude) > math.pi / 2 + 1e-9] = np.nan
    square = flat * (2 - flat)
    normal = large / np.sqrt(1 - square * np.sin(latitude) ** 2)
    flatly = normal * np.cos(latitude)
    up = normal * (1 - square) * np.sin(latitude)
    return np.stack([flatly * np.cos(longitude), flatly * np.sin(longitude), up], axis=-1)
