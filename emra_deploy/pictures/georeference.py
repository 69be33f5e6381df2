"""The location of a raster on the earth, and the size of its pixels there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emra_deploy.pictures.ground import PixelAreas, Points, has_ellipsoid, measure, on_ellipsoid


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

    def turned(self, orientation: int, height: int, width: int) -> GeoReference:
        """That of the picture as a viewer turns it.

        Args:
            orientation: As in EXIF, 1 to 8.
            height: Rows of the picture as it is stored.
            width: Columns of it.
        """
        from rasterio.control import GroundControlPoint
        from rasterio.transform import Affine

        # From columns and rows as shown to those as stored.
        rows = {
            2: ((-1, 0, width), (0, 1, 0)),
            3: ((-1, 0, width), (0, -1, height)),
            4: ((1, 0, 0), (0, -1, height)),
            5: ((0, 1, 0), (1, 0, 0)),
            6: ((0, 1, 0), (-1, 0, height)),
            7: ((0, -1, width), (-1, 0, height)),
            8: ((0, -1, width), (1, 0, 0)),
        }.get(orientation)
        if rows is None:
            return self
        stored = np.array([*rows, (0, 0, 1)], np.float64)
        shown = np.linalg.inv(stored)
        points = []
        for point in self.gcps:
            column, row, _ = shown @ (point.col, point.row, 1)
            points.append(GroundControlPoint(row, column, point.x, point.y, point.z, point.id, point.info))
        transform = Affine(*(np.reshape(self.transform, (3, 3)) @ stored).flat[:6]) if self.has_transform else None
        # No coefficients turn with it.
        return replace(self, transform=transform, gcps=tuple(points), rpcs=None)

    @property
    def has_transform(self) -> bool:
        """Whether pixels have coordinates."""
        return self.transform is not None and not self.transform.is_identity

    @property
    def is_placed(self) -> bool:
        """Whether `coordinates` gives those of a place: by the transform, or by three ground control points or more."""
        return self.has_transform or len(self.gcps) > 2

    @property
    def placed_crs(self) -> Any:
        """Coordinate reference system of what `coordinates` gives by default, or None."""
        if not self.is_placed:
            return None
        return self.crs if self.has_transform else self.gcp_crs

    def coordinates(self, points: Points, crs: Any = None) -> Points:
        """Coordinates of points given as columns and rows.

        Ground control points stand in for a transform that is missing, by GDAL's polynomial of them.

        Args:
            points: n×2; whole numbers are corners of pixels.
            crs: Coordinate reference system of the result; None for the raster's own.

        Returns:
            x and y, n×2; columns and rows as they were where the raster is not placed.

        Raises:
            ValueError: The control points lie on one line, or points beyond what ``crs`` can express.
        """
        if not self.is_placed:
            return points
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import CRSError
        from rasterio.transform import GCPTransformer
        from rasterio.warp import transform

        try:
            if self.has_transform:
                a, b, c, d, e, f = self.transform[:6]
                x, y = a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f
            else:
                with GCPTransformer(self.gcps) as place:
                    x, y = place.xy(points[:, 1], points[:, 0], offset="ul")
            if crs is not None:
                x, y = transform(self.placed_crs, crs, x, y)
        except (CRSError, CPLE_BaseError) as error:
            raise ValueError(" ".join(str(error).split())) from error
        return np.stack([x, y], axis=1)

    def pixel_areas(self, height: int, width: int) -> tuple[PixelAreas | None, str | None]:
        """The areas of pixels on the ground, or why there are none.

        Args:
            height: Rows of the raster.
            width: Columns.

        Returns:
            The areas and None; or None and a sentence for the user, without a full stop.
        """
        if not self.is_placed:
            missing = "coordinate reference system" if self.crs is None else "transform from pixels to coordinates"
            return None, f"the picture has no {missing}"
        crs = self.placed_crs
        if crs is None:
            return None, "the picture has no coordinate reference system"
        grid = None
        if self.has_transform and not crs.is_geographic:
            grid = abs(self.transform.determinant) * float(crs.units_factor[1]) ** 2
        try:
            if grid is not None and not has_ellipsoid(crs):
                return PixelAreas.alike(grid, height, width), None
            return measure(self.coordinates, crs, grid, height, width), None
        except ValueError as error:
            return None, f"not all pixels have a place on the ground ({error})"

    def misfit(self) -> float | None:
        """Metres by which `coordinates` misses the farthest of the control points that it is made of, or None."""
        if self.has_transform or not self.is_placed or self.gcp_crs is None:
            return None
        wanted = np.array([(point.x, point.y) for point in self.gcps], np.float64)
        found = self.coordinates(np.array([(point.col, point.row) for point in self.gcps], np.float64))
        misses = on_ellipsoid(self.gcp_crs, wanted) - on_ellipsoid(self.gcp_crs, found)
        return float(np.max(np.linalg.norm(misses, axis=1)))


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
