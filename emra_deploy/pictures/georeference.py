"""The location of a raster on the earth, and the size of its pixels there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class GeoReference:
    """Everything in a dataset that locates its pixels, in rasterio's types; by default, nothing.

    Attributes:
        crs: Coordinate reference system, or None.
        transform: Affine, from column and row to coordinates; None or the identity when the raster has none.
        gcps: Ground control points, for rasters that have these instead of a transform.
        gcp_crs: Their coordinate reference system, or None.
        rpcs: Rational polynomial coefficients, or None.
        area_or_point: The tag of that name, or None: whether coordinates are those of corners or centres of pixels.
        epoch: Decimal year of coordinates in a system that moves with its plate, as GDAL writes it, or None.
    """

    crs: Any = None
    transform: Any = None
    gcps: tuple[Any, ...] = ()
    gcp_crs: Any = None
    rpcs: Any = None
    area_or_point: str | None = None
    epoch: str | None = None

    @classmethod
    def of(cls, dataset: Any) -> GeoReference:
        """That of an open rasterio dataset."""
        gcps, gcp_crs = dataset.gcps
        tag = dataset.tags().get("AREA_OR_POINT")
        return cls(dataset.crs, dataset.transform, tuple(gcps), gcp_crs, dataset.rpcs, tag, _epoch(dataset))

    def write_to(self, dataset: Any) -> None:
        """Give it to a rasterio dataset that is being written."""
        if self.area_or_point is not None:
            dataset.update_tags(AREA_OR_POINT=self.area_or_point)
        if self.gcps:
            from rasterio.crs import CRS

            # rasterio takes no None here, though it gives one.
            dataset.gcps = (list(self.gcps), self.gcp_crs or CRS())
        elif self.has_transform:
            dataset.transform = self.transform
        if self.crs is not None:
            dataset.crs = self.crs
        if self.rpcs is not None:
            dataset.rpcs = self.rpcs

    @property
    def has_transform(self) -> bool:
        """Whether pixels have coordinates."""
        return self.transform is not None and not self.transform.is_identity

    def coordinates(self, points: NDArray[np.float64], crs: Any = None) -> NDArray[np.float64]:
        """Coordinates of points given as columns and rows.

        Args:
            points: n×2; whole numbers are corners of pixels.
            crs: Coordinate reference system of the result; None for the raster's own.

        Returns:
            x and y, n×2; columns and rows as they were where the raster has no transform.
        """
        if not self.has_transform:
            return points
        a, b, c, d, e, f = self.transform[:6]
        x, y = a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f
        if crs is not None:
            from rasterio.warp import transform

            x, y = (np.asarray(values) for values in transform(self.crs, crs, x, y))
        return np.stack([x, y], axis=1)

    def pixel_area_m2(self) -> tuple[float | None, str | None]:
        """The area of one pixel, or why there is none.

        Returns:
            Square metres and None; or None and a sentence for the user, without a full stop.
        """
        if self.crs is None:
            return None, "the picture has no coordinate reference system"
        if not self.has_transform:
            return None, "the picture has no transform from pixels to coordinates"
        if self.crs.is_geographic:
            return None, "its coordinates are degrees; reproject it to metres, such as UTM, to get square metres"
        if self.crs.to_dict().get("proj") in ("merc", "webmerc") or self.crs.to_epsg() in (3857, 3395):
            # At 52 degrees north a Mercator square metre is 0.38 true ones: a number, but not an area.
            return None, "Mercator coordinates stretch areas; reproject it, such as to UTM, to get square metres"
        try:
            _, metres = self.crs.linear_units_factor
        except Exception:
            return None, "its coordinate reference system has no known unit of length"
        return abs(self.transform.determinant) * float(metres) ** 2, None

    def gsd(self) -> float | None:
        """Metres a pixel: the side of a square of a pixel's area; None where that is not known."""
        area, _ = self.pixel_area_m2()
        return None if area is None else math.sqrt(area)


def _epoch(dataset: Any) -> str | None:
    """The epoch of a dataset's coordinates, which rasterio drops: only GDAL's own copy as VRT has it."""
    from rasterio import shutil
    from rasterio.io import MemoryFile

    if dataset.crs is None:
        return None
    with MemoryFile(ext=".vrt") as copy:
        shutil.copy(dataset, copy.name, driver="VRT")
        found = re.search(rb'<SRS[^>]* coordinateEpoch="([0-9.]+)"', copy.read())
    return None if found is None else found.group(1).decode()
