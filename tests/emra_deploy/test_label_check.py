"""A label raster that did not come to the disk as it was written gets no name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.georeference import GeoReference
from emra_deploy.label_check import block_sums
from emra_deploy.label_files import BLOCK, LabelWriter
from tests.onnx_models import CLASSES

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("rasterio.shutil")

HEIGHT, WIDTH = BLOCK + 90, BLOCK + 40


def write(path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (HEIGHT, WIDTH), np.uint8)
    place = GeoReference(rasterio.crs.CRS.from_epsg(32640), rasterio.transform.from_origin(3e5, 2.7e6, 0.5, 0.5))
    writer = LabelWriter(path, HEIGHT, WIDTH, CLASSES, place)
    try:
        writer.write(labels)
        writer.finish()
    finally:
        writer.close()


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


@pytest.mark.parametrize("harm", [one_pixel, another_place, no_cog, half])
def test_what_came_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    copy = rasterio.shutil.copy
    calls: list[Path] = []

    def careless(source: object, target: str, **options: object) -> None:
        copy(source, target, **options)
        if not calls:
            calls.append(Path(target))
            harm(Path(target))

    monkeypatch.setattr("rasterio.shutil.copy", careless)
    with pytest.raises(EmraError) as caught:
        write(tmp_path / "map.tif")
    assert caught.value.code == "output-write"
    assert calls == [tmp_path / "map.tif"]


def test_errors_of_gdal_while_copying_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rasterio._err import CPLE_AppDefinedError

    for error, told in (
        (CPLE_AppDefinedError(3, 1, "Failed to read directory at offset 16"), "Failed to read directory"),
        (SystemError("Unknown GDAL Error"), "Unknown GDAL Error"),
    ):

        def failing(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("rasterio.shutil.copy", failing)
        with pytest.raises(EmraError, match=told) as caught:
            write(tmp_path / "map.tif")
        assert caught.value.code == "output-write"
        assert list(tmp_path.iterdir()) == []


def test_a_sound_one_passes(tmp_path: Path) -> None:
    write(tmp_path / "map.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_sums_of_blocks() -> None:
    import zlib

    rows = np.arange(3 * 10, dtype=np.uint8).reshape(3, 10)
    assert block_sums(rows, 4) == [zlib.crc32(rows[:, left : left + 4].tobytes()) for left in (0, 4, 8)]
