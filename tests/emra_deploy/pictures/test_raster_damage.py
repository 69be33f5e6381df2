"""Rasters that are cut, that declare more than they hold, or that are something else: an error, and no memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.windows import Window
from tests.emra_deploy.pictures.raster_files import UTM, code_of, rasterio, write


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_truncated_rasters_are_refused(
    pixels: np.ndarray, tmp_path: Path, compress: str, tiled: bool, part: float
) -> None:
    path = write(tmp_path / "a.tif", pixels, compress=compress, tiled=tiled, photometric="RGB", **UTM)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert code_of(path) in ("image-truncated", "image-unreadable")


def test_jpeg_blocks_that_end_early_are_refused(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (3, 256, 256), np.uint8)
    path = write(tmp_path / "a.tif", bands, compress="jpeg", blockxsize=256, blockysize=256, photometric="RGB")
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        size = int(dataset.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1))
    middle = start + size // 2
    data[middle : middle + 2] = b"\xff\xd9"
    path.write_bytes(data)
    assert code_of(path) == "image-truncated"


def huge_tiff(path: Path, side: int, size: int) -> None:
    """A BigTIFF of one strip per row that declares side x side x 3 bytes and has ``size``."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 2), (277, 3, 3)]
    entries += [(322, 3, 256), (323, 3, 256), (324, 16, 0), (325, 16, 0)]
    tiles = (-(-side // 256)) ** 2
    body = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", len(entries))
    for tag, kind, value in entries:
        count = tiles if tag in (324, 325) else 1
        body += struct.pack("<HHQQ", tag, kind, count, 1000 if tag in (324, 325) else value)
    path.write_bytes((body + bytes(8)).ljust(size, b"\0"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_small_file_that_declares_120_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    huge_tiff(path, 200_000, 1_200_000)
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.pictures.inputs import open_input\n"
        "from emra_deploy.pictures.windows import Window\n"
        "try:\n"
        "    open_input(sys.argv[1]).read(Window(0, 0, 512, 512))\n"
        "except EmraError as error:\n"
        # Not ru_maxrss, which a child inherits from the process that started it.
        "    print(error.code, re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    code, kilobytes = done.stdout.split()
    assert code in ("raster-implausible", "image-unreadable")
    assert int(kilobytes) < 400_000
    sparse = tmp_path / "sparse.tif"
    options = {"driver": "GTiff", "tiled": True, "sparse_ok": True, "bigtiff": "YES"}
    with rasterio.open(sparse, "w", width=200_000, height=200_000, count=3, dtype="uint8", **options):
        pass
    assert code_of(sparse) == "raster-implausible"


def test_one_huge_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 10_240, "blockysize": 10_240, "sparse_ok": True}
    with rasterio.open(path, "w", width=10_240, height=10_240, count=3, dtype="uint8", **options):
        pass
    assert code_of(path) == "raster-layout"


def test_one_huge_strip_is_read(tmp_path: Path) -> None:
    rows, columns = 4000, 1000
    path = tmp_path / "a.tif"
    pixels = np.arange(rows, dtype=np.uint32)[:, None, None] % 251 * np.ones((1, columns, 3), np.uint32)
    packed = zlib.compress(pixels.astype(np.uint8).tobytes(), 1)
    entries = [(256, 4, columns), (257, 4, rows), (258, 3, 8), (259, 3, 8), (262, 3, 2)]
    entries += [(273, 4, 8), (277, 3, 3), (278, 4, rows), (279, 4, len(packed))]
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + body + bytes(4))
    with RasterSource(path) as source:
        window = Window(3000, 500, 900, 64)
        np.testing.assert_array_equal(source.read(window), pixels[window.slices])
        assert source.valid(window) is None


def test_other_formats_do_not_pass_for_tiff(pixels: np.ndarray, tmp_path: Path) -> None:
    real = write(tmp_path / "real.tif", pixels)
    fake = tmp_path / "fake.tif"
    fake.write_text(
        '<VRTDataset rasterXSize="130" rasterYSize="100"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{real}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert code_of(fake) == "not-an-image"
    # A TIFF's first bytes do not help: only the TIFF driver is asked.
    fake.write_bytes(b"II*\0" + fake.read_bytes())
    assert code_of(fake) == "image-unreadable"
    for name in ("/vsicurl/http://localhost/a.tif", f"/vsizip/{real}", f"GTIFF_DIR:1:{real}", f"zip://{real}!a.tif"):
        assert code_of(Path(name)) == "input-missing"
