"""Writes and reads rasters for the tests; importing it skips a module where rasterio is absent."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps.label_files import RasterWriter
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import Window

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

CLASSES = ClassSet(("ground", "rivière", "roof"), ((10, 20, 30), (0, 0, 255), (200, 0, 0)))
UTM = {"crs": "EPSG:32633", "transform": Affine(0.25, 0, 500_000.125, 0, -0.25, 5_400_000.375)}


def write(
    path: Path,
    bands: np.ndarray,
    colours: str = "",
    mask: np.ndarray | None = None,
    palette: dict[int, tuple[int, ...]] | None = None,
    **options,
) -> Path:
    """A GeoTIFF of ``bands``, with the colours' names, an internal mask and a palette if given; returns its path."""
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    profile.update(count=bands.shape[0], height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype)
    with rasterio.open(path, "w", **{**profile, **options}) as dataset:
        if colours:
            dataset.colorinterp = [ColorInterp[name] for name in colours.split()]
        if palette:
            dataset.write_colormap(1, palette)
        dataset.write(bands)
        if mask is not None:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                dataset.write_mask(mask)
    return path


def whole(source: RasterSource | ArraySource) -> Window:
    """The window of all of it."""
    return Window(0, 0, source.height, source.width)


def code_of(path: Path, **options) -> str:
    """The code of the error that opening and reading it gives, which is one line."""

    def open_and_read() -> None:
        source = open_input(path, **options)
        source.read(whole(source))

    with pytest.raises(EmraError) as caught:
        open_and_read()
    assert "\n" not in str(caught.value)
    return caught.value.code


def read(path: Path, **options) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture and what is valid of it."""
    with RasterSource(path, **options) as source:
        return source.read(whole(source)), source.valid(whole(source))


def make_labels(height: int, width: int) -> np.ndarray:
    """Random labels of `CLASSES`, some without."""
    labels = np.random.default_rng(1).integers(0, 4, (height, width), np.uint8)
    labels[labels == 3] = 255
    return labels


def write_labels(path: Path, labels: np.ndarray, georeference: GeoReference, step: int) -> None:
    """Write labels by ``step`` rows at a time."""
    with closing(RasterWriter(path, *labels.shape, CLASSES, georeference, {"EMRA_MODEL": "test"})) as writer:
        for top in range(0, labels.shape[0], step):
            writer.write(labels[top : top + step])
        writer.finish()
