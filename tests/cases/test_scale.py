"""``--scale`` on rasters whose tags say what their stored numbers mean: the range is in the units of the values.

``--scale 0 0.3`` on uint16 with a scale tag of 0.0001 gave a map of one class (rasterio issue 2219: the tag is not
applied by the reader).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from emra_deploy.errors import EmraError
from emra_deploy.pictures.scaling import Scale
from tests.cases.builders import colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")

PICTURE, LABELS = squares()
BRIGHT = PICTURE.transpose(2, 0, 1) > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(
    path: Path,
    dtype: str,
    dark: float | list[float],
    bright: float | list[float],
    scales: list[float] | None = None,
    offsets: list[float] | None = None,
    unit: str = "",
    none: np.ndarray | None = None,
    nodata: float | None = None,
) -> Path:
    """A GeoTIFF of the squares in stored numbers, per band where a list is given; ``nodata`` where ``none`` is."""
    low, high = (np.broadcast_to(np.reshape(value, (-1, 1, 1)), BRIGHT.shape) for value in (dark, bright))
    stored = np.where(BRIGHT, high, low).astype(float)
    if none is not None:
        stored[:, none] = nodata
    size = {"height": LABELS.shape[0], "width": LABELS.shape[1], "count": 3, "dtype": dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", **size) as dataset:
        if scales is not None:
            dataset.scales = scales
        if offsets is not None:
            dataset.offsets = offsets
        if unit:
            dataset.units = [unit] * 3
        dataset.write(stored.astype(dtype))
    return path


def labels(source: Path, model: Path, low: float, high: float) -> np.ndarray:
    out = source.with_name("map.tif")
    make(source, out, model, overwrite=True, scale=Scale(low, high))
    with rasterio.open(out) as dataset:
        return dataset.read(1)


SAME = [1e-4] * 3
APPLIED = [
    # Type, stored numbers of dark and bright, scale and offset tags, and the range in the units of the values.
    ("uint16", 0, 3000, SAME, None, (0, 0.3)),
    ("uint16", 1000, 4000, SAME, [-0.1] * 3, (0, 0.3)),
    ("uint16", 1000, 4000, None, [-1000.0] * 3, (0, 3000)),
    ("int16", -2000, 1000, [0.01] * 3, [20.0] * 3, (0, 30)),
    ("int16", -9000, 9000, None, None, (-9000, 9000)),
    ("uint16", [0, 0, 0], [3000, 300, 30], [1e-4, 1e-3, 1e-2], None, (0, 0.3)),
    ("uint16", [0, 100, 1000], [3000, 3100, 4000], SAME, [0, -0.01, -0.1], (0, 0.3)),
    ("uint32", 4_000_000_000, 4_000_000_100, None, None, (4e9, 4e9 + 100)),
    ("uint32", 0, 4_000_000_000, [1e-9] * 3, None, (0, 4)),
    ("float32", 0, 30, [0.01] * 3, None, (0, 0.3)),
    ("float64", 0, 0.3, None, None, (0, 0.3)),
    ("uint8", 10, 200, [0.5] * 3, [-5.0] * 3, (0, 95)),
    # A negative scale turns dark to bright, and one of 0 is a tag that nobody filled in.
    ("int16", 3000, 0, [-1e-4] * 3, [0.3] * 3, (0, 0.3)),
    ("uint16", 0, 3000, [0.0] * 3, None, (0, 3000)),
]


@pytest.mark.parametrize(("dtype", "dark", "bright", "scales", "offsets", "limits"), APPLIED)
def test_tags_are_applied(dtype, dark, bright, scales, offsets, limits, model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", dtype, dark, bright, scales, offsets)
    np.testing.assert_array_equal(labels(source, model, *limits), LABELS)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint16", 0), ("uint16", 65535), ("int16", -9999), ("float32", float("nan")), ("float32", -9999)],
)
def test_nodata_is_a_stored_number(dtype: str, nodata: float, model: Path, tmp_path: Path) -> None:
    none = np.zeros(LABELS.shape, bool)
    none[10:40, 20:70] = True
    source = write(tmp_path / "a.tif", dtype, 1000, 4000, SAME, [-0.1] * 3, none=none, nodata=nodata)
    np.testing.assert_array_equal(labels(source, model, 0, 0.3), np.where(none, 255, LABELS))


def test_infinity_and_what_is_no_number_are_no_data(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "float32", 0, 3000, SAME)
    with rasterio.open(source, "r+") as dataset:
        bands = dataset.read()
        bands[0, 5, 5], bands[1, 6, 6], bands[2, 7, 7] = np.nan, np.inf, -np.inf
        dataset.write(bands)
    expected = LABELS.copy()
    expected[[5, 6, 7], [5, 6, 7]] = 255
    np.testing.assert_array_equal(labels(source, model, 0, 0.3), expected)


@pytest.mark.parametrize(
    ("dtype", "scales", "limits"),
    [
        ("uint16", SAME, (0, 3000)),  # In stored numbers, where a tag says otherwise.
        ("uint16", None, (0, 0.3)),  # In reflectance, where no tag says so.
        ("uint16", SAME, (10, 20)),
        ("uint8", None, (0, 10_000)),
        ("int16", SAME, (4, 5)),
    ],
)
def test_a_range_of_other_units_is_refused(
    dtype: str, scales: list[float] | None, limits: tuple[float, float], model: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "a.tif", dtype, 0, 200, scales, unit="reflectance")
    with pytest.raises(EmraError, match=r"values of the raster \(reflectance\)") as caught:
        labels(source, model, *limits)
    assert caught.value.code == "scale-range"


def test_the_command_applies_the_tags_and_says_so(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "uint16", 0, 30, [1.0] * 3, [-0.0] * 3)
    assert "tags" not in segment(model, source, tmp_path / "plain.tif", "--scale", 0, 30)["stderr"]
    source = write(tmp_path / "b.tif", "uint16", 0, 3000, [0.01] * 3, unit="%")
    for more in ([], ["--dry-run"]):
        said = segment(model, source, tmp_path / "map.tif", "--scale", 0, 30, *more, "--overwrite")["stderr"]
        assert "scale and offset tags are applied, stored values x 0.01 +0; --scale is in their units (%)" in said
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), LABELS)
    said = segment(model, source, tmp_path / "no.tif", "--scale", 0, 30_000, fails=True)["stderr"]
    assert "[scale-range]" in said
    assert "lie in 0 to 655.35 and are 0.01 apart" in said


def test_eight_bits_without_a_range_are_shown_as_they_are_stored(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", "uint8", 0, 255, [0.004] * 3)
    make(source, tmp_path / "map.tif", model)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), LABELS)


def test_tags_of_a_turned_tiff_which_pillow_reads(model: Path, tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 3
    items = ['<Item name="OFFSET" sample="0" role="offset">-0.1</Item>']
    items += ['<Item name="SCALE" sample="0" role="scale">0.0001</Item>']
    tags[42112] = f"<GDALMetadata>{''.join(items)}</GDALMetadata>"
    stored = np.where(LABELS > 0, 4000, 1000).astype(np.uint16)
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo=tags)
    expected = np.where(LABELS > 0, 4, 3)[::-1, ::-1]
    np.testing.assert_array_equal(labels(tmp_path / "a.tif", model, 0, 0.3), expected)
