"""Opens image files: the one place that decides whether a file is read by windows or whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from emra_deploy.errors import EmraError
from emra_deploy.pictures.images import image_format, read_picture, tiff_header
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.sources import ArraySource

OpenPicture = ArraySource | RasterSource
"""A picture file that was opened: its pixels, what is known of its place, and ``close``."""


def open_input(
    path: str | os.PathLike[str], *, bands: Sequence[int] | None = None, scale: Scale | None = None
) -> OpenPicture:
    """Open an image file for segmentation.

    A TIFF is read by windows; without rasterio, or when an EXIF orientation has to be applied, one without
    georeference is read whole. JPEG and PNG are read whole.

    Args:
        path: JPEG, PNG, TIFF or GeoTIFF.
        bands: Three band numbers from 1 for red, green and blue, for a TIFF.
        scale: Range of values to stretch to 8 bits.

    Raises:
        EmraError: As `RasterSource` and `read_picture`.
    """
    kind = image_format(path)
    if kind == "tiff":
        has_rasterio = find_spec("rasterio") is not None
        try:
            header = tiff_header(path)
        except EmraError:
            if not has_rasterio:
                raise
            # Pillow reads fewer kinds of TIFF than GDAL, so GDAL decides.
            return RasterSource(path, bands=bands, scale=scale)
        if header.georeferenced or bands is not None or (has_rasterio and header.orientation == 1):
            return RasterSource(path, bands=bands, scale=scale)
    elif bands is not None:
        raise EmraError("image-bands", "--bands is for TIFF, not for JPEG and PNG", "Leave it out", path)
    return ArraySource(*read_picture(path, scale, kind))
