"""Where a raster lies on the earth, and how large its pixels are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GeoReference:
    """Everything of a dataset that ties pixels to places, in rasterio's types.

    Attributes:
        crs: Coordinate reference system, or None.
        transform: Affine, from column and row to coordinates; the identity when the raster has none.
        gcps: Ground control points, for rasters that have these instead of a transform.
        gcp_crs: Their coordinate reference system, or None.
        rpcs: Rational polynomial coefficients, or None.
        area_or_point: The tag of that name, or None: whether the stored coordinates mean corners or centres of pixels.
    """

    crs: Any
    transform: Any
    gcps: tuple[Any, ...] = ()
    gcp_crs: Any = None
    rpcs: Any = None
    area_or_point: str | None = None

    @classmethod
    def of(cls, dataset: Any) -> GeoReference:
        """That of an open rasterio dataset."""
        gcps, gcp_crs = dataset.gcps
        return cls(
            dataset.crs,
            dataset.transform,
            tuple(gcps),
            gcp_crs,
            dataset.rpcs,
            dataset.tags().get("AREA_OR_POINT"),
        )

    def pixel_area_m2(self) -> tuple[float | None, str | None]:
        """The area of one pixel, or why there is none.

        Returns:
            Square metres and None; or None and a sentence for the user, without a full stop.
        """
        if self.crs is None:
            return None, "the picture has no coordinate reference system"
        if self.transform.is_identity:
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
