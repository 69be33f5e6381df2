"""The side-car file (``.aux.xml``) of a map whose place on the earth GeoTIFF keys cannot hold.

Heights above the ellipsoid, rotated poles, derived and engineering systems and epochs of coordinates have no keys, or
lose parts of themselves in them. GDAL, and so QGIS, reads the side-car first.
"""

from __future__ import annotations

import os
import secrets
import warnings
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from emra_deploy.errors import EmraError
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.raster import gdal_session

SUFFIX = ".aux.xml"


def split_place(georeference: GeoReference, path: str | os.PathLike[str]) -> tuple[GeoReference, str | None]:
    """What goes into the GeoTIFF, and the text of its side-car, or None where none is needed.

    Args:
        georeference: Of the picture.
        path: Of the picture, for errors.

    Raises:
        EmraError: ``output-crs`` when neither brings the coordinate reference system back.
    """
    if georeference.crs is None and georeference.gcp_crs is None:
        return georeference, None
    if georeference.epoch is None and _comes_back(georeference, georeference, None):
        return georeference, None
    bare = replace(georeference, crs=None, gcp_crs=None)
    text = _side_car(georeference)
    if not _comes_back(georeference, bare, text):
        raise EmraError(
            "output-crs",
            f"no GeoTIFF holds the picture's coordinate reference system, {name_of(georeference)}",
            "Reproject the picture to one of the EPSG's, gdalwarp -t_srs EPSG:..., or give an output that ends in .png",
            path,
        )
    return bare, text


def name_of(georeference: GeoReference) -> str:
    """What its coordinate reference system is called, in quotes."""
    wkt = (georeference.crs or georeference.gcp_crs).to_wkt()
    return f'"{wkt.split(chr(34))[1]}"' if '"' in wkt else wkt[:80]


def _side_car(georeference: GeoReference) -> str:
    root = ElementTree.Element("PAMDataset")
    epoch = {} if georeference.epoch is None else {"coordinateEpoch": georeference.epoch}
    if georeference.crs is not None:
        ElementTree.SubElement(root, "SRS", epoch).text = georeference.crs.to_wkt()
    if georeference.gcps and georeference.gcp_crs is not None:
        points = ElementTree.SubElement(root, "GCPList", {"Projection": georeference.gcp_crs.to_wkt()})
        for number, point in enumerate(georeference.gcps, 1):
            values = {"Pixel": point.col, "Line": point.row, "X": point.x, "Y": point.y, "Z": point.z or 0.0}
            ElementTree.SubElement(
                points, "GCP", {"Id": point.id or str(number), **{key: repr(float(one)) for key, one in values.items()}}
            )
    return ElementTree.tostring(root, encoding="unicode")


def _comes_back(wanted: GeoReference, written: GeoReference, side_car: str | None) -> bool:
    """Whether a GeoTIFF of one pixel, in memory, returns the coordinate reference systems."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    folder = f"emra-{secrets.token_hex(6)}"
    options = {"GDAL_PAM_ENABLED": "NO"} if side_car is None else {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
    with (
        gdal_session() as rasterio,
        rasterio.Env(**options),
        warnings.catch_warnings(),
        MemoryFile(dirname=folder, filename="a.tif") as file,
    ):
        # Where a transform is missing is known.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.Env(GDAL_PAM_ENABLED="NO"), _create(file) as dataset:
                written.write_to(dataset)
            beside = (
                None if side_car is None else MemoryFile(side_car.encode(), dirname=folder, filename=f"a.tif{SUFFIX}")
            )
            with file.open() as dataset:
                found = GeoReference.of(dataset)
        except (RasterioError, CPLE_BaseError):
            return False
        if beside is not None:
            beside.close()
    return (found.crs, found.gcp_crs, found.epoch) == (wanted.crs, wanted.gcp_crs, wanted.epoch)


def _create(file: Any) -> Any:
    return file.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8")
