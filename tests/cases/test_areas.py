"""Square metres of rasters in degrees, Mercator, polar and other systems, against pyproj's geodesics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cases.builders import COLOURS, SQUARE, colour_model, make, squares

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.warp import transform  # noqa: E402

Affine = rasterio.Affine
DEGREES = CRS.from_epsg(4326)
MARS = (
    'GEOGCS["GCS_Mars",DATUM["D_Mars",SPHEROID["Mars",3396190,169.894447223612]],PRIMEM["Reference_Meridian",0],'
    'UNIT["Degree",0.0174532925199433]]'
)
PLACES = [
    pytest.param("EPSG:4326", Affine(7e-6, 0, 15.02, 0, -4.5e-6, 48.7), 1e-7, id="degrees"),
    pytest.param("EPSG:4326", Affine(5e-6, 2e-6, 15.02, 2e-6, -4e-6, 48.7), 1e-5, id="degrees-turned"),
    pytest.param("EPSG:4326", Affine(7e-6, 0, 179.9995, 0, -4.5e-6, -16.7), 1e-7, id="beyond-180"),
    pytest.param("EPSG:4326", Affine(0.01, 0, 15, 0, -0.01, 60), 1e-5, id="degrees-large"),
    pytest.param("EPSG:4807", Affine(7e-6, 0, 0.5, 0, -5e-6, 54), 1e-4, id="grads-from-paris"),
    pytest.param("EPSG:3857", Affine(0.75, 0, 1_672_000, 0, -0.75, 6_224_000), 1e-6, id="web-mercator"),
    pytest.param("EPSG:3857", Affine(0.6, 0.4, 1_672_000, 0.4, -0.6, 6_224_000), 1e-6, id="web-mercator-turned"),
    pytest.param("EPSG:3395", Affine(0.75, 0, 1_672_000, 0, -0.75, 6_190_000), 1e-6, id="mercator"),
    pytest.param("EPSG:4087", Affine(0.75, 0, 1_672_000, 0, -0.5, 5_421_000), 1e-6, id="equidistant"),
    pytest.param("EPSG:3413", Affine(2000, 0, -190_000, 0, -2000, 130_000), 1e-4, id="around-the-north-pole"),
    pytest.param("EPSG:3031", Affine(0.5, 0, 2_900_000, 0, -0.5, 600_000), 1e-5, id="south-polar"),
    pytest.param("EPSG:2263", Affine(2, 0, 980_000, 0, -2, 200_000), 1e-3, id="feet"),
    pytest.param("EPSG:32633", Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000), 1e-3, id="utm"),
    pytest.param("EPSG:32633", Affine(0.5, 0, 1_400_000, 0, -0.5, 5_394_000), 1e-5, id="utm-far-from-its-zone"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(path: Path, crs: str, place: Affine) -> np.ndarray:
    picture, labels = squares()
    profile = {"driver": "GTiff", "height": 128, "width": 192, "count": 3, "dtype": "uint8", "crs": crs}
    with rasterio.open(path, "w", transform=place, **profile) as dataset:
        dataset.write(picture.transpose(2, 0, 1))
    return labels


def geodesic(crs: CRS, place: Affine, labels: np.ndarray) -> np.ndarray:
    """Square metres of the first three classes: pyproj's areas of the squares, whose edges are cut into 16."""
    geod = pytest.importorskip("pyproj").Geod(ellps="WGS84")
    steps = np.arange(17) * (SQUARE / 16)
    edge = np.concatenate([np.stack([steps, 0 * steps], 1), np.stack([0 * steps + SQUARE, steps], 1)])
    ring = np.concatenate([edge, SQUARE - edge])
    metres = np.zeros(3)
    for top in range(0, labels.shape[0], SQUARE):
        for left in range(0, labels.shape[1], SQUARE):
            x, y = place * (ring + np.array([left, top])).T
            area, _ = geod.polygon_area_perimeter(*transform(crs, DEGREES, x, y))
            metres[labels[top, left]] += abs(area)
    return metres


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize(("crs", "place", "tolerance"), PLACES)
def test_areas_are_geodesic(model: Path, tmp_path: Path, crs: str, place: Affine, tolerance: float) -> None:
    labels = write(tmp_path / "in.tif", crs, place)
    report = make(tmp_path / "in.tif", tmp_path / "map.tif", model, polygons=tmp_path / "map.gpkg")
    found = [area.square_metres for area in report.areas[:3]]
    np.testing.assert_allclose(found, geodesic(CRS.from_user_input(crs), place, labels), rtol=tolerance)
    assert report.area_note is None
    raw = pytest.importorskip("pyogrio.raw")
    names, _, metres = (raw.read(tmp_path / "map.gpkg")[3][index] for index in (0, 1, 3))
    by_class = [metres[names == name].sum() for name in COLOURS.names[:3]]
    np.testing.assert_allclose(by_class, found, rtol=1e-5)


def test_degrees_and_mercator_agree_with_utm(model: Path, tmp_path: Path) -> None:
    """The same squares of 96 m x 64 m near the middle of a zone, warped: within 0.1 %."""
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    utm, zone = Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000), CRS.from_epsg(32633)
    white = np.pad(squares()[0].transpose(2, 0, 1), ((0, 0), (8, 8), (8, 8)), constant_values=255)
    corners = (501_000, 5_393_928, 501_104, 5_394_000)
    for crs in (4326, 3857):
        place, width, height = calculate_default_transform(
            zone, CRS.from_epsg(crs), 208, 144, *corners, dst_width=1664, dst_height=1152
        )
        profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
        with rasterio.open(tmp_path / f"{crs}.tif", "w", crs=f"EPSG:{crs}", transform=place, **profile) as dataset:
            for band in (1, 2, 3):
                into = np.full((height, width), 255, np.uint8)
                reproject(
                    white[band - 1],
                    into,
                    src_transform=utm,
                    src_crs=zone,
                    dst_transform=place,
                    dst_crs=dataset.crs,
                    resampling=Resampling.nearest,
                )
                dataset.write(into, band)
        report = make(tmp_path / f"{crs}.tif", tmp_path / f"{crs}-map.tif", model)
        for area in report.areas[:3]:
            assert area.square_metres == pytest.approx(96 * 64 / 3, rel=2e-3)
        assert sum(area.square_metres for area in report.areas[:3]) == pytest.approx(96 * 64, rel=1.5e-3)


@pytest.mark.parametrize("crs", [MARS, "EPSG:4326"], ids=["mars", "earth"])
def test_areas_are_those_of_the_body(model: Path, tmp_path: Path, crs: str) -> None:
    write(tmp_path / "in.tif", crs, Affine(1e-5, 0, 10, 0, -1e-5, 0.00064))
    report = make(tmp_path / "in.tif", tmp_path / "map.tif", model)
    radius, inverse = (3_396_190, 169.894447223612) if crs == MARS else (6_378_137, 298.257223563)
    # On the equator, where a degree of latitude is shorter by the square of the eccentricity.
    metres = np.radians(192e-5) * radius * np.radians(128e-5) * radius * (1 - 1 / inverse) ** 2
    assert sum(area.square_metres for area in report.areas) == pytest.approx(metres, rel=1e-6)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_give_areas(model: Path, tmp_path: Path) -> None:
    corners = ((0, 0), (0, 192), (128, 0), (128, 192))
    points = [GroundControlPoint(r, c, 501_000 + c / 2, 5_394_000 - r / 2, 0.0) for r, c in corners]
    write(tmp_path / "in.tif", "", Affine.identity())
    with rasterio.open(tmp_path / "in.tif", "r+") as dataset:
        dataset.gcps = (points, CRS.from_epsg(32633))
    report = make(tmp_path / "in.tif", tmp_path / "map.tif", model)
    assert sum(area.square_metres for area in report.areas) == pytest.approx(96 * 64, rel=1e-3)


@pytest.mark.parametrize(("least", "count"), [(100.0, 24), (119.0, 24), (121.0, 0)])
def test_least_areas_are_those_on_the_ground(model: Path, tmp_path: Path, least: float, count: int) -> None:
    """A square in Web Mercator at 60 degrees north is four times as large in coordinates."""
    write(tmp_path / "in.tif", "EPSG:3857", Affine(0.6842, 0, 1_672_000, 0, -0.6842, 8_399_737))
    report = make(tmp_path / "in.tif", tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson", min_area=least)
    features = json.loads((tmp_path / "map.geojson").read_text())["features"]
    assert (report.polygon_count, len(features)) == (count, count)


def test_the_size_of_a_pixel_in_degrees_reaches_the_model(tmp_path: Path) -> None:
    """0.5 m in degrees, and a model for 1 m: it sees the picture at half the size."""
    model = colour_model(tmp_path, gsd=1.0)
    write(tmp_path / "in.tif", "EPSG:4326", Affine(0.5 / 73_500, 0, 15.02, 0, -0.5 / 111_200, 48.7))
    report = make(tmp_path / "in.tif", tmp_path / "map.tif", model)
    assert report.scale_factor == pytest.approx(0.5, rel=5e-3)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), squares()[1])
