"""A label raster that reads back otherwise than it was written is not published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps.cog import copy_to_cog
from emra_deploy.maps.label_levels import BLOCK
from emra_deploy.pictures.georeference import GeoReference
from tests.emra_deploy.pictures.raster_files import rasterio, write_labels

pytest.importorskip("rasterio.shutil")

HEIGHT, WIDTH = BLOCK + 90, BLOCK + 40


def write(path: Path) -> None:
    place = GeoReference(rasterio.crs.CRS.from_epsg(32640), rasterio.transform.from_origin(3e5, 2.7e6, 0.5, 0.5))
    labels = np.random.default_rng(0).integers(0, 5, (HEIGHT, WIDTH), np.uint8)
    write_labels(path, labels, place, HEIGHT)


def one_pixel(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        pixels = raster.read(1)
        pixels[BLOCK + 1, 3] ^= 1
        raster.write(pixels, 1)


def another_place(path: Path) -> None:
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.transform = rasterio.transform.from_origin(3e5, 2.7e6, 0.5, 0.6)


def no_cog(path: Path) -> None:
    copy = path.with_name("copy.tif")
    rasterio.shutil.copy(path, copy, driver="GTiff", tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
    copy.replace(path)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_overview(path: Path) -> None:
    from rasterio.enums import Resampling

    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.build_overviews([2], Resampling.nearest)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        # GDAL before 3.10 also removes the mark of a COG from a file that was changed.
        (one_pixel, "block 0, 1 differs from what was written|not a cloud-optimised GeoTIFF"),
        (another_place, "transform did not come back"),
        (no_cog, "not a cloud-optimised GeoTIFF"),
        (half, "cannot be written"),
        (another_overview, "block 0, 0 of overview 1 differs from what was written"),
    ],
)
def test_what_came_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], message: str
) -> None:
    def careless(raster: Path, path: Path, block: int) -> None:
        copy_to_cog(raster, path, block)
        harm(path)

    monkeypatch.setattr("emra_deploy.maps.label_files.copy_to_cog", careless)
    with pytest.raises(EmraError, match=message) as caught:
        write(tmp_path / "map.tif")
    assert caught.value.code == "output-write"


def test_a_sound_one_passes(tmp_path: Path) -> None:
    write(tmp_path / "map.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
