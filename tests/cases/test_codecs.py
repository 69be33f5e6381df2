"""Compressions of TIFF: those that GDAL has give the right labels, and those that it lacks are named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from emra_deploy import EmraError, read_image
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.windows import Window
from tests.cases.builders import colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")

PLACE = rasterio.Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(path: Path, **more: object) -> Path:
    picture, _ = squares()
    size = {"height": 128, "width": 192, "count": 3, "dtype": "uint8", "interleave": "pixel"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=PLACE, **size, **more) as dataset:
        dataset.write(picture.transpose(2, 0, 1))
    return path


def renumber(path: Path, code: int, big: bool = False) -> None:
    """Declare another compression, as a file in it does."""
    entry = struct.pack("<HHQ" if big else "<HHI", 259, 3, 1)
    content = path.read_bytes()
    assert content.count(entry) == 1
    place = content.index(entry) + len(entry)
    path.write_bytes(content[:place] + struct.pack("<H", code) + content[place + 2 :])


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "zstd"},
        {"compress": "lzma"},
        {"compress": "lerc"},
        {"compress": "lerc_zstd"},
        {"compress": "lerc_deflate"},
        {"compress": "webp", "WEBP_LOSSLESS": "YES"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "packbits"},
        {"compress": "jpeg", "photometric": "ycbcr", "JPEG_QUALITY": 95},
        {"compress": "jxl"},
    ],
    ids=lambda options: options["compress"],
)
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
def test_what_gdal_writes_is_read(model: Path, tmp_path: Path, options: dict[str, object], tiled: bool) -> None:
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {}
    try:
        source = write(tmp_path / "in.tif", **options, **blocks)
    except Exception as error:
        pytest.skip(f"this GDAL does not write it: {error}")
    make(source, tmp_path / "map.tif", model)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), squares()[1])


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (50002, "JPEG XL"),
        (52546, "JPEG XL"),
        (34712, "JPEG 2000"),
        (33003, "JPEG 2000 (Aperio)"),
        (34661, "JBIG"),
        (65000, "the compression of number 65000"),
    ],
)
@pytest.mark.parametrize("big", [False, True], ids=["tiff", "bigtiff"])
def test_a_codec_that_gdal_lacks_is_named(tmp_path: Path, code: int, name: str, big: bool) -> None:
    source = write(tmp_path / "in.tif", BIGTIFF="YES" if big else "NO")
    renumber(source, code, big)
    try:
        with rasterio.open(source):
            pytest.skip("this GDAL has the codec")
    except rasterio.errors.RasterioIOError:
        pass
    with pytest.raises(EmraError) as caught:
        open_input(source)
    assert caught.value.code == "image-codec"
    assert f"compressed with {name}, which" in caught.value.cause
    assert "gdal_translate" in caught.value.remedy


def test_the_command_says_so_before_the_work(model: Path, tmp_path: Path) -> None:
    renumber(write(tmp_path / "in.tif"), 65000)
    said = segment(model, tmp_path / "in.tif", tmp_path / "map.tif", "--dry-run", fails=True)
    assert said["error"]["code"] == "image-codec"
    assert "[image-codec]" in said["stderr"]
    assert "damaged" not in said["stderr"]


@pytest.mark.parametrize(("code", "name"), [(50002, "JPEG XL"), (34887, "LERC")])
def test_pillow_without_gdal_names_it_too(tmp_path: Path, code: int, name: str) -> None:
    renumber(write(tmp_path / "in.tif"), code)
    with pytest.raises(EmraError) as caught:
        read_image(tmp_path / "in.tif")
    assert caught.value.code == "image-codec"
    assert f"compressed with {name}, which" in caught.value.cause


def test_damage_is_still_damage(tmp_path: Path) -> None:
    source = write(tmp_path / "in.tif", compress="deflate")
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    with pytest.raises(EmraError) as caught:
        open_input(source).read(Window(0, 0, 128, 192))
    assert caught.value.code in ("image-truncated", "image-unreadable")
