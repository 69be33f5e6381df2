"""The georeference, kept exactly from input to label map, and the ground size of a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emra_deploy.pictures.georeference import GeoReference
from emra_deploy.pictures.raster import RasterSource
from tests.emra_deploy.pictures.raster_files import UTM, Affine, make_labels, rasterio, write, write_labels


@pytest.mark.parametrize(
    "place",
    [
        UTM,
        {"crs": "EPSG:32633", "transform": Affine(0.2, 0.1, 500_000.1, 0.1, -0.2, 5.4e6 + 1 / 3)},
        {"crs": "EPSG:4326", "transform": Affine(1e-6, 0, 55.3, 0, -1e-6, 25.2)},
        {"crs": "EPSG:2263", "transform": Affine(0.5, 0, 980_000, 0, -0.5, 200_000)},
        {"crs": None, "transform": Affine(0.5, 0, 3, 0, -0.5, 4)},
        {"crs": "+proj=tmerc +lat_0=1.25 +lon_0=8.5 +k=0.9 +x_0=7 +y_0=9 +ellps=bessel +units=m", **{}},
    ],
    ids=["utm", "rotated", "degrees", "feet", "no-crs", "own-crs"],
)
@pytest.mark.parametrize("point", [False, True])
def test_georeference_is_kept_exactly(pixels: np.ndarray, tmp_path: Path, place: dict, point: bool) -> None:
    place = {"transform": UTM["transform"], **place}
    path = write(tmp_path / "in.tif", pixels, **place)
    if point:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(AREA_OR_POINT="Point")
    with RasterSource(path) as source:
        write_labels(tmp_path / "out.tif", make_labels(100, 130), source.georeference, 64)
    with rasterio.open(path) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert after.crs == before.crs
        assert tuple(after.transform) == tuple(before.transform)
        assert after.bounds == before.bounds
        assert after.tags().get("AREA_OR_POINT") == before.tags().get("AREA_OR_POINT")


def test_ground_control_points_are_kept(pixels: np.ndarray, tmp_path: Path) -> None:
    corners = ((0, 0), (0, 130), (100, 0))
    points = [rasterio.control.GroundControlPoint(r, c, 8 + c / 1e5, 50 - r / 1e5, 0.0) for r, c in corners]
    path = tmp_path / "in.tif"
    with rasterio.open(path, "w", driver="GTiff", width=130, height=100, count=3, dtype="uint8") as dataset:
        dataset.gcps = (points, rasterio.CRS.from_epsg(4326))
        dataset.write(pixels)
    with RasterSource(path) as source:
        write_labels(tmp_path / "out.tif", make_labels(100, 130), source.georeference, 64)
    with rasterio.open(tmp_path / "out.tif") as after:
        kept, crs = after.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32633", Affine(0.25, 0, 500_000, 0, -0.25, 5.4e6), 0.0625),
        ("EPSG:32633", Affine(0.3, 0.8, 500_000, 0.6, -0.4, 5.4e6), 0.6),
        ("EPSG:2263", Affine(2, 0, 980_000, 0, -2, 200_000), 4 * 0.3048006096012192**2),
        (
            'LOCAL_CS["site",UNIT["US survey foot",0.304800609601219]]',
            Affine(2, 0, 0, 0, -2, 9),
            4 * 0.304800609601219**2,
        ),
        (None, Affine(0.25, 0, 0, 0, -0.25, 9), "no coordinate reference"),
        ("EPSG:32633", Affine.identity(), "no transform"),
        ("EPSG:4326", Affine(1, 0, 0, 0, -1, 500_000), "place on the ground"),
    ],
)
def test_area_of_a_pixel(crs: str | None, transform: Affine, expected: float | str) -> None:
    reference = GeoReference(None if crs is None else rasterio.CRS.from_user_input(crs), transform)
    areas, reason = reference.pixel_areas(100, 130)
    if isinstance(expected, str):
        assert areas is None
        assert reason is not None
        assert expected in reason
    else:
        assert areas is not None
        assert areas.uniform == pytest.approx(expected, rel=1e-12)
        assert areas.mean == pytest.approx(expected, rel=1e-12)
        assert reason is None


def test_files_beside_a_link_place_the_raster(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target = write(tmp_path / "store" / "blob.tif", pixels)
    link = tmp_path / "in.tif"
    link.symlink_to(target)
    (tmp_path / "in.tfw").write_text("0.5\n0\n0\n-0.5\n500000.25\n5399999.75\n")
    wkt = rasterio.CRS.from_epsg(32633).to_wkt()
    (tmp_path / "in.tif.aux.xml").write_text(f"<PAMDataset><SRS>{wkt}</SRS></PAMDataset>")
    with RasterSource(link) as source:
        assert source.georeference.crs == rasterio.CRS.from_epsg(32633)
        assert source.georeference.transform == Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
