"""Scenes as georeferenced files."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.model_file.classes import IGNORE
from training.data.scenes.scene import DUBAI_CLASSES, Scene

CRS = "EPSG:32640"
"""UTM zone 40 north, the zone of Dubai."""

ORIGIN = (325000.0, 2785000.0)
"""Easting and northing of the top left corner, metres."""


def write_geotiff(
    scene: Scene, image_path: str | os.PathLike[str], labels_path: str | os.PathLike[str] | None = None
) -> None:
    """Write the picture, and its truth if a path is given, as tiled GeoTIFFs in UTM zone 40 north.

    The scene is placed near Dubai, in true size; the labels have the palette of ``DUBAI_CLASSES``. Existing files
    are replaced.

    Args:
        scene: What to write.
        image_path: The picture, three bands.
        labels_path: The labels, one band; nodata is 255, which no pixel has.

    Raises:
        EmraError: ``library-missing`` without rasterio, ``output-unwritable`` when a file cannot be written.
    """
    need("raster", "rasterio", purpose="writing a GeoTIFF")
    from rasterio.errors import RasterioIOError

    path = image_path
    try:
        _write_image(scene, image_path)
        if labels_path is not None:
            path = labels_path
            _write_labels(scene, labels_path)
    except (RasterioIOError, OSError) as error:
        raise EmraError(
            "output-unwritable", f"the file cannot be written: {error}", "Choose another place", path
        ) from error


def _write_image(scene: Scene, path: str | os.PathLike[str]) -> None:
    import rasterio
    from rasterio.enums import ColorInterp

    with rasterio.open(path, "w", **_profile(scene, 3), photometric="RGB") as target:
        target.write(np.moveaxis(scene.image, -1, 0))
        target.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def _write_labels(scene: Scene, path: str | os.PathLike[str]) -> None:
    import rasterio

    with rasterio.open(path, "w", **_profile(scene, 1), nodata=IGNORE) as target:
        target.write(scene.labels, 1)
        target.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(DUBAI_CLASSES.palette)})


def _profile(scene: Scene, bands: int) -> dict[str, Any]:
    from rasterio.transform import Affine

    height, width = scene.labels.shape
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": bands,
        "height": height,
        "width": width,
        "crs": CRS,
        "transform": Affine(scene.gsd, 0.0, ORIGIN[0], 0.0, -scene.gsd, ORIGIN[1]),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
    }
