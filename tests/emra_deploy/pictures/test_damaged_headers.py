"""Headers that are damaged where libraries look late, or not with care."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.pictures.images import read_picture
from emra_deploy.pictures.inputs import open_input
from tests.onnx_models import scene


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_png_without_pixels(tmp_path: Path) -> None:
    """Pillow's check of such a file ends in an IndexError."""
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(EmraError) as caught:
        read_picture(path)
    assert caught.value.code in ("image-unreadable", "image-truncated")


def test_tiff_whose_offsets_are_read_late(tmp_path: Path) -> None:
    """GDAL opens it, and raises its own error on the first access to parts that it reads lazily."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    place = {"crs": "EPSG:32640", "transform": rasterio.transform.from_origin(0, 0, 1, 2)}
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(
        path, "w", driver="GTiff", height=150, width=200, count=3, dtype="uint8", **place, **options
    ) as raster:
        raster.write(scene(150, 200).transpose(2, 0, 1))
        raster.build_overviews([2])
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    entries = {
        struct.unpack_from("<H", data, start + 2 + 12 * index)[0]: start + 2 + 12 * index for index in range(count)
    }
    for name, where, value in (
        ("next directory", start + 2 + 12 * count, 134_300_890),
        ("tile offsets", entries[324] + 8, len(data) - 2),
        ("tile sizes", entries[325] + 8, len(data) - 2),
    ):
        damaged = bytearray(data)
        struct.pack_into("<I", damaged, where, value)
        path.write_bytes(damaged)
        with pytest.raises(EmraError) as caught:
            open_input(path)
        assert caught.value.code in ("image-truncated", "image-unreadable"), name
