"""A flipped bit in a deflated TIFF is refused, whether GDAL notices or not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.windows import Window
from tests.onnx_models import scene

rasterio = pytest.importorskip("rasterio")

HEIGHT, WIDTH = 150, 200
WHOLE = Window(0, 0, HEIGHT, WIDTH)
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": TILES,
    "strips": {"blockysize": 16},
    "planes": {**TILES, "interleave": "band"},
    "bigtiff": {**TILES, "bigtiff": "YES", "predictor": 2},
    "zopfli-like": {**TILES, "zlevel": 9},
}


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    place = {"crs": "EPSG:32640", "transform": rasterio.transform.from_origin(0, 0, 1, 1)}
    with rasterio.open(
        path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=3, dtype="uint8", **place, **options
    ) as raster:
        raster.write(pixels.transpose(2, 0, 1))


def read(path: Path) -> np.ndarray:
    with RasterSource(path) as source:
        assert source.valid(WHOLE) is None
        return source.read(WHOLE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_flipped_bit_of_a_block_is_noticed(tmp_path: Path, layout: str) -> None:
    pixels = scene(HEIGHT, WIDTH)
    path = tmp_path / "a.tif"
    write(path, pixels, compress="deflate", **LAYOUTS[layout])
    np.testing.assert_array_equal(read(path), pixels)
    whole = path.read_bytes()
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        size = int(raster.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1))
    chance = random.Random(0)
    for _ in range(40):
        place = start + chance.randrange(size)
        damaged = whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(EmraError) as caught:
            read(path)
        assert caught.value.code == "image-truncated"


def test_only_blocks_that_are_read_are_looked_at(tmp_path: Path) -> None:
    pixels = scene(HEIGHT, WIDTH)
    path = tmp_path / "a.tif"
    write(path, pixels, compress="deflate", **TILES)
    with rasterio.open(path) as raster:
        start = int(raster.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    whole = path.read_bytes()
    path.write_bytes(whole[: start + 9] + bytes([whole[start + 9] ^ 4]) + whole[start + 10 :])
    corner = Window(0, 0, 64, 64)
    with RasterSource(path) as source:
        for _ in range(2):
            assert source.valid(corner) is None
        np.testing.assert_array_equal(source.read(corner), pixels[:64, :64])
        with pytest.raises(EmraError):
            source.valid(Window(64, 128, 64, 64))


def test_a_block_that_unpacks_to_more_than_a_block_is_refused(tmp_path: Path) -> None:
    import zlib

    from emra_deploy.pictures.block_sums import DeflateSums

    bomb = zlib.compress(bytes(50_000_000), 9)
    (tmp_path / "a").write_bytes(b"xx" + bomb)
    sums = DeflateSums(tmp_path / "a", 1, 1, 1, 4096)
    with pytest.raises(OSError, match="more than 4096"):
        sums.check(0, 0, 0, 2, len(bomb))
    assert not sums.done(0, 0, 0)
    sums = DeflateSums(tmp_path / "a", 1, 1, 1, 50_000_000)
    with pytest.raises(OSError, match="cut short"):
        sums.check(0, 0, 0, 2, len(bomb) - 1)
    sums.check(0, 0, 0, 2, len(bomb))
    assert sums.done(0, 0, 0)
    sums.close()
    sums.close()
