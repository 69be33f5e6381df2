"""Opens image files: the one place that decides whether a file is read by windows or whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.pictures.bands import RGB, choose_bands
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.images import image_format, orientation_of, read_picture, tiff_header
from emra_deploy.pictures.raster import RasterSource, read_place
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.sources import ArraySource

OpenPicture = ArraySource | RasterSource
"""A picture file that was opened: its pixels, what is known of its place, and ``close``."""


def open_input(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    scale: Scale | None = None,
    wanted: Sequence[str] = RGB,
) -> OpenPicture:
    """Open an image file for segmentation.

    A TIFF is read by windows; without rasterio, or when an EXIF orientation has to be applied, one without
    georeference is read whole. JPEG and PNG are read whole; files beside these place them.

    Args:
        path: JPEG, PNG, TIFF or GeoTIFF.
        bands: Three band numbers from 1 for those that are wanted; by default those of their names.
        scale: Range of values to stretch to 8 bits.
        wanted: Names of the model's bands, in its order.

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
            return RasterSource(path, bands=bands, scale=scale, wanted=wanted)
        if header.georeferenced or bands is not None or (has_rasterio and header.orientation == 1):
            return RasterSource(path, bands=bands, scale=scale, wanted=wanted)
    elif bands is not None and tuple(wanted) == RGB:
        raise EmraError(
            "image-bands", "a JPEG or PNG has the bands that the model reads, without --bands", "Leave it out", path
        )
    chosen = [band - 1 for band in choose_bands(RGB, bands, os.fspath(path), wanted)]
    image, valid = read_picture(path, scale, kind)
    if chosen != [0, 1, 2]:
        image = np.ascontiguousarray(image[..., chosen])
    return ArraySource(image, valid, _place(path, kind))


def _place(path: str | os.PathLike[str], kind: str) -> GeoReference | None:
    """The georeference of a picture that is read whole, from the files beside it."""
    name = Path(path).name
    start = name.rpartition(".")[0].casefold() + "."
    beside = any(
        entry.name.casefold().startswith(start) and entry.name != name
        for entry in os.scandir(Path(path).absolute().parent)
    )
    # Most photographs have none, and work without rasterio.
    if not beside or find_spec("rasterio") is None:
        return None
    return read_place(path, kind, orientation_of(path))
