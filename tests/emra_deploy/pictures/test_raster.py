"""Reading of TIFF and GeoTIFF: correct pixels by windows, masks of invalid pixels, and no guesses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emra_deploy.errors import EmraError
from emra_deploy.pictures.inputs import open_input
from emra_deploy.pictures.raster import RasterSource
from emra_deploy.pictures.scaling import Scale
from emra_deploy.pictures.windows import Window
from tests.emra_deploy.pictures.raster_files import UTM, code_of, rasterio, read, write


def test_windows_of_rgb(pixels: np.ndarray, tmp_path: Path) -> None:
    with RasterSource(write(tmp_path / "a.tif", pixels, **UTM)) as source:
        assert (source.height, source.width) == (100, 130)
        window = Window(17, 29, 60, 71)
        np.testing.assert_array_equal(source.read(window), pixels.transpose(1, 2, 0)[window.slices])
        assert source.valid(window) is None


def test_plain_tiff_and_geotiff_are_both_read_by_windows(pixels: np.ndarray, tmp_path: Path) -> None:
    assert isinstance(open_input(write(tmp_path / "a.tif", pixels)), RasterSource)
    assert isinstance(open_input(write(tmp_path / "b.tif", pixels, **UTM)), RasterSource)


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_interleaving(pixels: np.ndarray, tmp_path: Path, interleave: str) -> None:
    image, _ = read(write(tmp_path / "a.tif", pixels, interleave=interleave))
    np.testing.assert_array_equal(image, pixels.transpose(1, 2, 0))


def test_one_pixel(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.array([[[1]], [[2]], [[3]]], np.uint8), tiled=False, **UTM)
    np.testing.assert_array_equal(read(path)[0], [[[1, 2, 3]]])


def test_grey_palette_and_few_bits(pixels: np.ndarray, tmp_path: Path) -> None:
    grey, _ = read(write(tmp_path / "grey.tif", pixels[:1]))
    np.testing.assert_array_equal(grey, np.repeat(pixels[0][..., None], 3, axis=2))
    bits = (pixels[:1] > 100).astype(np.uint8)
    black_white, _ = read(write(tmp_path / "bits.tif", bits, nbits=1))
    np.testing.assert_array_equal(black_white[..., 0], bits[0] * 255)
    inverted, _ = read(write(tmp_path / "inverted.tif", pixels[:1], photometric="MINISWHITE"))
    np.testing.assert_array_equal(inverted[..., 1], 255 - pixels[0])
    path = tmp_path / "palette.tif"
    with rasterio.open(path, "w", driver="GTiff", width=2, height=1, count=1, dtype="uint8") as dataset:
        dataset.write_colormap(1, {0: (9, 8, 7), 1: (1, 2, 3)})
        dataset.write(np.array([[[0, 1]]], np.uint8))
    np.testing.assert_array_equal(read(path)[0], [[[9, 8, 7], [1, 2, 3]]])


def test_alpha_nodata_and_masks_are_not_valid(pixels: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((1, 100, 130), 255, np.uint8)
    alpha[0, :40], alpha[0, 40:50] = 0, 3
    for bands, colours in ((pixels[:1], "gray alpha"), (pixels, "red green blue alpha")):
        image, valid = read(write(tmp_path / f"{len(bands)}.tif", np.concatenate([bands, alpha]), colours))
        np.testing.assert_array_equal(valid, alpha[0] > 0)
        np.testing.assert_array_equal(image[..., 0], bands[0])
    holes = pixels.copy()
    holes[:, 10:20, 30:50] = 0
    holes[0, 0, 0] = 0
    _, valid = read(write(tmp_path / "nodata.tif", holes, nodata=0))
    assert valid is not None
    np.testing.assert_array_equal(valid, holes.any(axis=0))
    _, valid = read(write(tmp_path / "mask.tif", pixels, mask=alpha[0] > 0))
    np.testing.assert_array_equal(valid, alpha[0] > 0)


def test_near_infrared_bands(pixels: np.ndarray, tmp_path: Path) -> None:
    four = np.concatenate([pixels, pixels[:1]])
    image, valid = read(write(tmp_path / "a.tif", four, "red green blue undefined"))
    np.testing.assert_array_equal(image, pixels.transpose(1, 2, 0))
    assert valid is None
    swapped, _ = read(write(tmp_path / "b.tif", four, "blue green red undefined"))
    np.testing.assert_array_equal(swapped, pixels[::-1].transpose(1, 2, 0))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_unnamed_bands_have_to_be_named(tmp_path: Path, count: int) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (count, 40, 50), np.uint8)
    path = write(tmp_path / "a.tif", bands, " ".join(["gray", *["undefined"] * (count - 1)]))
    assert code_of(path) == "image-bands"
    image, _ = read(path, bands=(2, 1, count))
    np.testing.assert_array_equal(image, bands[[1, 0, count - 1]].transpose(1, 2, 0))
    for wrong in ((0, 1, 2), (1, 2, count + 1), (1, 2)):
        assert code_of(path, bands=wrong) == "image-bands"


def test_five_bands_that_say_which_are_colours(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (5, 40, 50), np.uint8)
    image, _ = read(write(tmp_path / "a.tif", bands, "undefined blue green red undefined"))
    np.testing.assert_array_equal(image, bands[[3, 2, 1]].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["uint16", "int16", "uint32", "float32", "float64"])
def test_other_depths_need_a_scale(tmp_path: Path, kind: str) -> None:
    values = np.array([0, 100, 300, 500, 5000]).astype(kind).reshape(1, 1, 5).repeat(3, axis=0)
    path = write(tmp_path / "a.tif", values, tiled=False)
    assert code_of(path) == "image-depth"
    image, valid = read(path, scale=Scale(100, 500))
    np.testing.assert_array_equal(image[0, :, 0], [0, 0, 128, 255, 255])
    assert valid is None


def test_twelve_bits_are_suggested(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((3, 16, 16), np.uint16), nbits=12, tiled=False)
    with pytest.raises(EmraError, match="--scale 0 4095"):
        open_input(path)


def test_nan_and_infinity_are_not_valid(tmp_path: Path) -> None:
    values = np.full((3, 1, 4), 0.5, np.float32)
    values[1, 0, 1], values[:, 0, 2] = np.nan, np.inf
    image, valid = read(write(tmp_path / "a.tif", values, tiled=False), scale=Scale(0, 1))
    np.testing.assert_array_equal(valid, [[True, False, False, True]])
    np.testing.assert_array_equal(image[0, [0, 3]], np.full((2, 3), 128))


def test_complex_values_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((1, 8, 8), np.complex64), tiled=False)
    assert code_of(path, scale=Scale(0, 1)) == "image-depth"


def test_blocks_that_were_never_written_are_not_valid(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
    with rasterio.open(path, "w", width=128, height=128, count=3, dtype="uint8", **options) as dataset:
        dataset.write(np.full((3, 64, 64), 9, np.uint8), window=rasterio.windows.Window(0, 64, 64, 64))
    with RasterSource(path) as source:
        expected = np.zeros((128, 128), bool)
        expected[64:, :64] = True
        for window in (Window(0, 0, 128, 128), Window(30, 20, 60, 90), Window(64, 0, 64, 65)):
            np.testing.assert_array_equal(source.valid(window), expected[window.slices])
        assert source.valid(Window(64, 0, 64, 64)) is None


def test_name_that_looks_like_a_scheme_is_a_file(pixels: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "real.tif", pixels)
    odd = tmp_path / "zip:a!b.tif"
    path.rename(odd)
    assert read(odd)[0].shape == (100, 130, 3)
