"""Rasters as other programs leave them, from the file to the map, and maps in places that rasters are not used to."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.maps.preview import MAX_SIDE, STREAMED_SIDE
from emra_deploy.pictures import raster
from emra_deploy.pictures.raster import RasterSource, gdal_session
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.windows import Window
from tests.emra_deploy.maps.map_jobs import run_job
from tests.emra_deploy.pictures import raster_files
from tests.onnx_models import nearest_colour, scene

rasterio = pytest.importorskip("rasterio")
from rasterio.crs import CRS  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

HEIGHT, WIDTH = 75, 66
PLACE = {"crs": "EPSG:32632", "transform": Affine(0.3, 0, 412345.678901234, 0, -0.3, 5654321.123456789)}


def write(
    path: Path, bands: np.ndarray, palette: dict | None = None, mask: np.ndarray | None = None, **options
) -> Path:
    profile = {"photometric": "RGB" if len(bands) >= 3 else "MINISBLACK", "tiled": False, "compress": None, **PLACE}
    return raster_files.write(path, bands, palette=palette, mask=mask, **{**profile, **options})


def pixels() -> np.ndarray:
    return scene(HEIGHT, WIDTH).transpose(2, 0, 1)


def mapped(source: Path, model: Path, **options) -> np.ndarray:
    """The labels that the file gives, after the map's georeference was compared with that of the picture."""
    output = source.with_name("map.tif")
    run_job(source, output, model, overwrite=True, **options)
    with rasterio.open(source) as before, rasterio.open(output) as after:
        assert after.crs == before.crs
        assert tuple(after.transform) == tuple(before.transform)
        assert after.tags().get("AREA_OR_POINT") == before.tags().get("AREA_OR_POINT")
        assert after.nodata == 255
        assert after.colorinterp[0].name == "palette"
        labels: np.ndarray = after.read(1)
    return labels


@pytest.mark.parametrize(
    "options",
    [
        {"BIGTIFF": "YES"},
        {"interleave": "band", "tiled": True, "blockxsize": 32, "blockysize": 32},
        {"blockysize": 1, "compress": "lzw", "predictor": 2},
        {"blockysize": HEIGHT, "compress": "deflate"},
        {"compress": "zstd"},
        {"crs": None},
        {"crs": None, "transform": Affine.identity()},
        {"crs": "EPSG:25832+7837"},
        {"crs": CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]')},
        {"transform": Affine(0.286, 0.086, 4e5, 0.089, -0.277, 5e6)},
        {"transform": Affine(0.3, 0, 4e5, 0, 0.3, 5e6)},
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_layouts_and_places(model: Path, tmp_path: Path, options: dict) -> None:
    bands = pixels()
    labels = mapped(write(tmp_path / "a.tif", bands, **options), model)
    assert (labels == nearest_colour(bands.transpose(1, 2, 0))).all()


def test_jpeg_in_ycbcr(model: Path, tmp_path: Path) -> None:
    bands = np.repeat(np.repeat(pixels()[:, ::16, ::16], 16, axis=1), 16, axis=2)
    path = write(
        tmp_path / "a.tif", bands, photometric="YCBCR", compress="jpeg", tiled=True, blockxsize=64, blockysize=64
    )
    assert (mapped(path, model) == nearest_colour(bands.transpose(1, 2, 0))).mean() > 0.98


def test_white_as_nodata_and_an_internal_mask(model: Path, tmp_path: Path) -> None:
    bands = pixels()
    white, mask = bands.copy(), np.full((HEIGHT, WIDTH), 255, np.uint8)
    white[:, :20], mask[:20] = 255, 0
    expected = nearest_colour(bands.transpose(1, 2, 0))
    for path in (
        write(tmp_path / "white.tif", white, nodata=255),
        write(tmp_path / "mask.tif", bands, mask=mask),
        write(tmp_path / "nan.tif", np.where(mask > 0, bands, np.float32("nan")), nodata=np.nan),
        write(tmp_path / "minus.tif", np.where(mask > 0, bands, np.float32(-9999)), nodata=-9999),
    ):
        labels = mapped(path, model, scale=Scale(0, 255))
        assert (labels[:20] == 255).all()
        assert (labels[20:] == expected[20:]).all()


def test_near_infrared_is_left_out_and_bands_may_be_named(model: Path, tmp_path: Path) -> None:
    bands = pixels()
    expected = nearest_colour(bands.transpose(1, 2, 0))
    extra = np.full_like(bands[:1], 77)
    assert (mapped(write(tmp_path / "a.tif", np.concatenate([bands, extra])), model) == expected).all()
    other = write(tmp_path / "b.tif", np.concatenate([extra, bands[::-1]]), photometric="MINISBLACK")
    assert (mapped(other, model, bands=(4, 3, 2)) == expected).all()


def test_palette_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.asarray([[[0, 1, 60_000]]], np.uint16)
    palette = {0: (10, 20, 30, 255), 1: (40, 50, 60, 255)}
    path = write(tmp_path / "a.tif", values, palette=palette, photometric="PALETTE")
    with RasterSource(path, scale=Scale(0, 255)) as source:
        assert source.read(Window(0, 0, 1, 3)).tolist() == [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]]


@pytest.mark.parametrize("mask", [False, True])
def test_wide_strips_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: bool) -> None:
    bands = np.random.default_rng(0).integers(1, 255, (3, 90, 1000), np.uint8)
    bands[:, 40:50, 500:] = 0
    path = write(tmp_path / "a.tif", bands, compress="lzw", blockysize=1, nodata=0 if mask else None)
    monkeypatch.setattr(raster, "CACHE_BYTES", 2 * 32 * 3000 - 2)
    windows = [Window(top, left, 32, 100) for top in (0, 29, 58) for left in range(0, 1000, 100)]
    with RasterSource(path) as source:
        loads = []
        load = source._read
        monkeypatch.setattr(source, "_read", lambda bands, window: loads.append(window) or load(bands, window))
        for window in windows:
            assert (source.read(window) == bands.transpose(1, 2, 0)[window.slices]).all()
            valid = source.valid(window)
            expected = bands.any(axis=0)[window.slices] if mask else np.ones((32, 100), bool)
            assert ((True if valid is None else valid) == expected).all()
            # What draws an overlay comes back to the rows before.
            before = Window(max(window.top - 20, 0), window.left, 25, 100)
            assert (source.read(before) == bands.transpose(1, 2, 0)[before.slices]).all()
    full = [window for window in loads if window.width == 1000]
    assert len(full) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 66), (75, 1), (33, 31)])
def test_rasters_smaller_than_a_tile(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    bands = pixels()[:, : size[0], : size[1]]
    labels = mapped(write(tmp_path / "a.tif", bands), model, overlay=tmp_path / "overlay.png")
    assert (labels == nearest_colour(bands.transpose(1, 2, 0))).all()


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names here are always text")
def test_name_that_is_no_text(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", pixels())
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.tif"))
    for source, output in ((odd, tmp_path / "map.tif"), (path, odd)):
        if source == odd:
            path.rename(odd)
        with pytest.raises(EmraError) as caught:
            run_job(source, output, model)
        assert caught.value.code == "raster-name"
        if source == odd:
            odd.rename(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.tif"]


def test_overlay_of_a_large_raster_stays_small(model: Path, tmp_path: Path) -> None:
    assert STREAMED_SIDE < MAX_SIDE
    bands = np.repeat(np.repeat(scene(4, 300).transpose(2, 0, 1), 8, axis=1), 8, axis=2)
    source = write(tmp_path / "a.tif", bands, compress="deflate")
    report = run_job(source, tmp_path / "map.tif", model, overlay=tmp_path / "overlay.png")
    assert report.overlay_factor == -(-2400 // STREAMED_SIDE) == 2


def test_reading_leaves_the_warnings_of_other_threads_alone() -> None:
    before = list(warnings.filters)
    with gdal_session():
        assert list(warnings.filters) == before
