"""Pixels without data as people's files mark them: alpha bands, nodata values, masks, and several of them at once.

A raster of red, green, blue, near-infrared and alpha got classes under its transparent pixels: GDAL takes a band for
opacity only where it is the last of two or four (rasterio issue 1178: a fifth band of alpha is ignored).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from emra_deploy.errors import EmraError
from tests.cases.builders import colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402

PICTURE, LABELS = squares()
HEIGHT, WIDTH = LABELS.shape
HIDDEN = np.zeros((HEIGHT, WIDTH), bool)
HIDDEN[10:50, 20:90] = True
"""Pixels without data; the squares' colours are still stored there."""
TRUTH = np.where(HIDDEN, 255, LABELS)
OPAQUE = {"uint8": 255, "uint16": 65535, "int16": 1, "float32": 1}
NODATA = 42113
"""GDAL's tag of the nodata value."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(path: Path, bands: list[np.ndarray], names: str = "red green blue", dtype: str = "uint8", **more) -> Path:
    """A GeoTIFF of these bands, with the names of their colour interpretation."""
    profile = {"driver": "GTiff", "count": len(bands), "height": HEIGHT, "width": WIDTH, "dtype": dtype}
    with rasterio.open(path, "w", **{**profile, **more}) as dataset:
        dataset.colorinterp = [ColorInterp[name] for name in names.split()]
        dataset.write(np.stack(bands).astype(dtype))
    return path


def colours(picture: np.ndarray = PICTURE) -> list[np.ndarray]:
    return list(picture.transpose(2, 0, 1))


def labels(source: Path, model: Path, **settings) -> np.ndarray:
    out = source.with_name("map.tif")
    make(source, out, model, overwrite=True, **settings)
    with rasterio.open(out) as dataset:
        return dataset.read(1)


NAMES = [
    "red green blue undefined alpha",
    "red green blue alpha undefined",
    "alpha red green blue",
    "alpha blue green red undefined undefined",
    "red green blue alpha",
    "gray undefined undefined alpha",
    "alpha gray undefined undefined",
]


@pytest.mark.parametrize("dtype", list(OPAQUE))
@pytest.mark.parametrize("names", NAMES)
def test_alpha_in_any_type_and_place(names: str, dtype: str, model: Path, tmp_path: Path) -> None:
    alpha = np.where(HIDDEN, 0, OPAQUE[dtype])
    order = iter(colours())
    found = {"red": next(order), "green": next(order), "blue": next(order), "alpha": alpha}
    unnamed = iter([*(colours() if "red" not in names else []), *[np.full_like(alpha, 60)] * 2])
    bands = [found[name] if name in found else next(unnamed) for name in names.split()]
    scale = {} if dtype == "uint8" else {"scale": _scale(0, 255)}
    np.testing.assert_array_equal(labels(write(tmp_path / "a.tif", bands, names, dtype), model, **scale), TRUTH)


def _scale(low: float, high: float):
    from emra_deploy.pictures.scaling import Scale

    return Scale(low, high)


def test_the_command(model: Path, tmp_path: Path) -> None:
    bands = [*colours(), np.full_like(LABELS, 60), np.where(HIDDEN, 0, 255)]
    source = write(tmp_path / "a.tif", bands, NAMES[0])
    report = segment(model, source, tmp_path / "map.tif")
    assert report["no_data_pixels"] == HIDDEN.sum()
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), TRUTH)


def test_bands_without_a_name_are_no_alpha_and_neither_are_chosen_ones(model: Path, tmp_path: Path) -> None:
    """ExtraSamples 0, and a near-infrared band that GDAL called alpha because it was the fourth."""
    fourth = np.where(HIDDEN, 0, 255)
    source = write(tmp_path / "a.tif", [*colours(), fourth], "red green blue undefined")
    np.testing.assert_array_equal(labels(source, model), LABELS)
    source = write(tmp_path / "b.tif", [*colours(), np.where(HIDDEN, 0, PICTURE[..., 2])], "red green blue alpha")
    expected = np.where(HIDDEN & (LABELS == 2), 3, LABELS)
    np.testing.assert_array_equal(labels(source, model, bands=(1, 2, 4)), expected)


def test_alpha_that_is_no_number(model: Path, tmp_path: Path) -> None:
    bands = [*colours(), np.where(HIDDEN, np.nan, 1)]
    source = write(tmp_path / "a.tif", bands, "red green blue alpha", "float32")
    np.testing.assert_array_equal(labels(source, model, scale=_scale(0, 255)), TRUTH)


@pytest.mark.parametrize("alpha", ["NON-PREMULTIPLIED", "PREMULTIPLIED"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("names", ["red green blue alpha", "gray alpha"])
def test_colours_that_were_multiplied_by_their_opacity(
    names: str, dtype: str, alpha: str, model: Path, tmp_path: Path
) -> None:
    """A faint red is red, not black; ExtraSamples 1 says that its values were made small."""
    full = OPAQUE[dtype]
    opacity = np.where(HIDDEN, 0, full // 5)
    grey = np.where(LABELS > 0, full, 0)
    bands = [grey] if "gray" in names else [band.astype(int) * (full // 255) for band in colours()]
    if alpha == "PREMULTIPLIED":
        bands = [band * (opacity / full) for band in bands]
    more = {"ALPHA": alpha, "photometric": "MINISBLACK" if "gray" in names else "RGB"}
    source = write(tmp_path / "a.tif", [*bands, opacity], names, dtype, **more)
    expected = np.where(HIDDEN, 255, np.where(LABELS > 0, 4, 3)) if "gray" in names else TRUTH
    scale = {} if dtype == "uint8" else {"scale": _scale(0, full)}
    np.testing.assert_array_equal(labels(source, model, **scale), expected)


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside_the_file(internal: bool, model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", [*colours(), np.full_like(LABELS, 60)], "red green blue undefined")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(source, "r+") as dataset:
        dataset.write_mask(~HIDDEN)
    assert (tmp_path / "a.tif.msk").exists() is not internal
    np.testing.assert_array_equal(labels(source, model), TRUTH)


def test_a_mask_a_nodata_value_and_alpha_at_once(model: Path, tmp_path: Path) -> None:
    """GDAL looks at one of them only."""
    parts = [np.zeros_like(HIDDEN) for _ in range(3)]
    parts[0][5:20, 5:40], parts[1][30:60, 50:120], parts[2][70:90, 10:30] = True, True, True
    image = PICTURE.copy()
    image[parts[1]] = 7
    source = write(tmp_path / "a.tif", [*colours(image), np.where(parts[2], 0, 255)], "red green blue alpha", nodata=7)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(source, "r+") as dataset:
        dataset.write_mask(~parts[0])
    np.testing.assert_array_equal(labels(source, model), np.where(np.any(parts, axis=0), 255, LABELS))


def test_nodata_is_a_colour_of_other_pixels(model: Path, tmp_path: Path) -> None:
    """Red is 255, 0, 0: with nodata 0, two of its bands hold the value; and so may near-infrared alone be above it."""
    image = PICTURE.copy()
    image[HIDDEN] = 0
    source = write(tmp_path / "a.tif", colours(image), nodata=0)
    np.testing.assert_array_equal(labels(source, model), TRUTH)
    infrared = np.where(HIDDEN, 0, 60)
    infrared[10:20, 20:30] = 5
    source = write(tmp_path / "b.tif", [*colours(image), infrared], "red green blue undefined", nodata=0)
    expected = TRUTH.copy()
    expected[10:20, 20:30] = 3
    np.testing.assert_array_equal(labels(source, model), expected)


@pytest.mark.parametrize(("dtype", "value"), [("int16", -9999), ("uint16", 65535), ("float32", -3.4028234663852886e38)])
def test_a_nodata_value_that_is_no_colour_hides_the_pixel_in_any_band(
    dtype: str, value: float, model: Path, tmp_path: Path
) -> None:
    bands = [band.astype(float) for band in colours()]
    bands[1][HIDDEN] = value
    source = write(tmp_path / "a.tif", bands, dtype=dtype, nodata=value)
    np.testing.assert_array_equal(labels(source, model, scale=_scale(0, 255)), TRUTH)


def test_nodata_of_one_band_alone(model: Path, tmp_path: Path) -> None:
    """Beside the file, because a TIFF has one value for all bands."""
    source = write(tmp_path / "a.tif", colours())
    side = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>'
    (tmp_path / "a.tif.aux.xml").write_text(side)
    np.testing.assert_array_equal(labels(source, model), LABELS)


@pytest.mark.parametrize("value", ["-9999", "256", "0.5", "nan", "-inf", "1e40", "none"])
def test_nodata_outside_the_type_hides_nothing(value: str, model: Path, tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[NODATA] = value
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", tiffinfo=tags)
    np.testing.assert_array_equal(labels(tmp_path / "a.tif", model), LABELS)


def test_nodata_values_of_all_bands_together(model: Path, tmp_path: Path) -> None:
    """The tag NODATA_VALUES: the colour 255, 0, 0 is no data, and white is."""
    source = write(tmp_path / "a.tif", colours())
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(NODATA_VALUES="255 0 0")
    np.testing.assert_array_equal(labels(source, model), np.where(LABELS == 0, 255, LABELS))


@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
def test_tiffs_that_pillow_reads(orientation: int, mode: str, model: Path, tmp_path: Path) -> None:
    """Turned by an EXIF orientation, which GDAL does not apply."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    image = PICTURE if mode != "L" else np.where(LABELS > 0, 255, 0).astype(np.uint8)
    expected = TRUTH if mode != "L" else np.where(HIDDEN, 255, np.where(LABELS > 0, 4, 3))
    if mode == "RGBA":
        image = np.dstack([image, np.where(HIDDEN, 0, 9).astype(np.uint8)])
    else:
        tags[NODATA], image = "7", image.copy()
        image[HIDDEN] = 7
    Image.fromarray(image).save(tmp_path / "a.tif", tiffinfo=tags)
    turned = expected if orientation == 1 else expected[::-1, ::-1]
    np.testing.assert_array_equal(labels(tmp_path / "a.tif", model), turned)


def save_png(path: Path, values: np.ndarray, depth: int, kind: int, **chunks: bytes) -> Path:
    """A PNG of any kind; Pillow writes no grey of 2 and 4 bits."""

    def chunk(name: str, data: bytes) -> bytes:
        body = name.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    if depth < 8:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    else:
        rows = np.ascontiguousarray(values.astype(">u2" if depth == 16 else "u1")).view(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows.reshape(len(values), -1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, kind, 0, 0, 0)
    parts = [("IHDR", header), *chunks.items(), ("IDAT", zlib.compress(data)), ("IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_png_whose_grey_is_transparent(depth: int, model: Path, tmp_path: Path) -> None:
    key = 1 if depth > 1 else 0
    values = np.where(HIDDEN, key, 2**depth - 1)
    source = save_png(tmp_path / "a.png", values, depth, 0, tRNS=struct.pack(">H", key))
    settings = {"scale": _scale(0, 65535)} if depth == 16 else {}
    np.testing.assert_array_equal(labels(source, model, **settings), np.where(HIDDEN, 255, 4))


def test_png_of_colours_of_which_one_is_transparent(model: Path, tmp_path: Path) -> None:
    image = PICTURE.copy()
    image[HIDDEN] = 1, 2, 3
    source = save_png(tmp_path / "a.png", image, 8, 2, tRNS=struct.pack(">HHH", 1, 2, 3))
    np.testing.assert_array_equal(labels(source, model), TRUTH)


@pytest.mark.parametrize("depth", [2, 8])
def test_png_with_a_palette_of_which_a_colour_is_transparent(depth: int, model: Path, tmp_path: Path) -> None:
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 0, 0])
    values = np.where(HIDDEN, 3, LABELS)
    source = save_png(tmp_path / "a.png", values, depth, 3, PLTE=palette, tRNS=bytes([255, 1, 255, 0]))
    np.testing.assert_array_equal(labels(source, model), TRUTH)


def test_png_of_grey_and_alpha(model: Path, tmp_path: Path) -> None:
    image = np.dstack([np.full_like(LABELS, 250), np.where(HIDDEN, 0, 1)]).astype(np.uint8)
    Image.fromarray(image, "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(labels(tmp_path / "a.png", model), np.where(HIDDEN, 255, 4))


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_beside_a_plain_picture(ending: str, orientation: int, model: Path, tmp_path: Path) -> None:
    """A mask written by GDAL, in the picture's stored order, before a viewer turns it."""
    exif = Image.Exif()
    exif[274] = orientation
    source = tmp_path / f"a.{ending}"
    Image.fromarray(PICTURE).save(source, quality=100, subsampling=0, exif=exif)
    profile = {"driver": "GTiff", "count": 1, "height": HEIGHT, "width": WIDTH, "dtype": "uint8", "nbits": 1}
    with rasterio.open(tmp_path / "mask.tif", "w", compress="deflate", interleave="band", **profile) as dataset:
        dataset.write(np.where(HIDDEN, 0, 1)[None].astype(np.uint8))
    (tmp_path / "mask.tif").rename(tmp_path / f"a.{ending}.msk")
    turned = TRUTH if orientation == 1 else np.rot90(TRUTH, -1)
    np.testing.assert_array_equal(labels(source, model), turned)


def test_a_mask_of_another_size_is_refused(model: Path, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "mask.tif")
    (tmp_path / "mask.tif").rename(tmp_path / "a.png.msk")
    with pytest.raises(EmraError, match="mask of 5 x 5 pixels") as caught:
        labels(tmp_path / "a.png", model)
    assert caught.value.code == "image-unreadable"
