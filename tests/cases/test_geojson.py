"""GeoJSON is in degrees (RFC 7946) whatever places the raster, or nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cases.builders import COLOURS, colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pytest.importorskip("onnxruntime")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402
from rasterio.warp import transform  # noqa: E402

from emra_deploy import EmraError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Affine = rasterio.Affine
UTM, DEGREES = CRS.from_epsg(32633), CRS.from_epsg(4326)
PLACE = Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000)
TURNED = Affine(0.4, 0.3, 501_000, 0.3, -0.4, 5_394_000)
CORNERS = ((0, 0), (0, 192), (128, 0), (128, 192))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(path: Path, crs: Any = None, place: Any = None, points: Any = None, picture: Any = None, **more: Any) -> Path:
    """A raster of the squares, placed by a transform, by control points or not at all."""
    picture = squares()[0] if picture is None else picture
    size = {"height": picture.shape[0], "width": picture.shape[1]}
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="uint8", crs=crs, transform=place, **size, **more
    ) as dataset:
        if points is not None:
            dataset.gcps = points
        dataset.write(picture.transpose(2, 0, 1))
    return path


def points_at(place: Affine, crs: CRS, into: CRS) -> list[GroundControlPoint]:
    found = []
    for row, column in CORNERS:
        (x,), (y,) = transform(
            crs, into, [place.a * column + place.b * row + place.c], [place.d * column + place.e * row + place.f]
        )
        found.append(GroundControlPoint(row, column, x, y, 0.0))
    return found


def outlines(path: Path) -> list[tuple[str, list[np.ndarray]]]:
    """Class and outlines of every feature; every ring is closed and wound as RFC 7946 asks, within 180 degrees."""
    found = []
    for feature in json.loads(path.read_text())["features"]:
        kind, lists = feature["geometry"]["type"], feature["geometry"]["coordinates"]
        parts = [lists] if kind == "Polygon" else lists
        for part in parts:
            for index, ring in enumerate(part):
                shape = shapely.LinearRing(ring)
                assert ring[0] == ring[-1]
                assert shape.is_ccw == (index == 0)
                assert np.abs(np.asarray(ring)).max(axis=0)[0] <= 180
                assert np.abs(np.asarray(ring)).max(axis=0)[1] <= 90
        found.append((feature["properties"]["class"], [np.asarray(part[0]) for part in parts]))
    return found


def expected(place: Affine, crs: CRS) -> list[tuple[str, np.ndarray]]:
    """Classes and corners in degrees of the 24 squares."""
    labels, found = squares()[1], []
    for top in range(0, 128, 32):
        for left in range(0, 192, 32):
            corners = np.array([(left, top), (left, top + 32), (left + 32, top + 32), (left + 32, top)])
            x = place.a * corners[:, 0] + place.b * corners[:, 1] + place.c
            y = place.d * corners[:, 0] + place.e * corners[:, 1] + place.f
            found.append((COLOURS.names[labels[top, left]], np.stack(transform(crs, DEGREES, x, y), axis=1)))
    return found


def assert_squares(path: Path, place: Affine, crs: CRS, tolerance: float) -> None:
    found = outlines(path)
    wanted = expected(place, crs)
    assert len(found) == len(wanted) == 24
    for name, corners in wanted:
        assert any(
            name == other and len(rings[0]) == 5
            and np.abs(corners[:, None] - rings[0]).max(axis=2).min(axis=1).max() < tolerance
            for other, rings in found
        )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "crs"), [(PLACE, UTM), (TURNED, UTM), (Affine(7e-6, 0, 15.02, 0, -4.5e-6, 48.7), DEGREES)]
)
def test_a_transform_places_the_polygons(model: Path, tmp_path: Path, place: Affine, crs: CRS) -> None:
    source = write(tmp_path / "in.tif", crs, place)
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    assert_squares(tmp_path / "map.geojson", place, crs, 1e-8)
    assert report.warnings == ()


@pytest.mark.parametrize("into", [UTM, DEGREES, CRS.from_epsg(25832)], ids=["utm", "degrees", "other-zone"])
@pytest.mark.parametrize("place", [PLACE, TURNED], ids=["north-up", "turned"])
def test_control_points_place_the_polygons(model: Path, tmp_path: Path, into: CRS, place: Affine) -> None:
    source = write(tmp_path / "in.tif", points=(points_at(place, UTM, into), into))
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    # The polynomial of four points is linear, and degrees are not quite: a centimetre.
    assert_squares(tmp_path / "map.geojson", place, UTM, 2e-7)
    (warning,) = report.warnings
    assert warning.startswith("4 ground control points place the polygons, which miss them by up to ")


def test_the_misfit_of_control_points_is_stated(model: Path, tmp_path: Path) -> None:
    points = points_at(PLACE, UTM, UTM)
    points[0] = GroundControlPoint(0, 0, points[0].x + 8, points[0].y, 0.0)
    source = write(tmp_path / "in.tif", points=(points, UTM))
    said = segment(model, source, tmp_path / "map.tif", "--polygons", tmp_path / "map.geojson", "--dry-run")
    # Least squares of a plane through four corners leave a quarter of it to each.
    (warning,) = said["warnings"]
    assert warning.endswith("by up to 2 m")
    assert said["stderr"] == f"emra: WARNING: {warning}\n"


@pytest.mark.parametrize("into", [UTM, DEGREES])
def test_geopackage_has_the_system_of_the_control_points(model: Path, tmp_path: Path, into: CRS) -> None:
    source = write(tmp_path / "in.tif", points=(points_at(PLACE, UTM, into), into))
    make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.gpkg")
    raw = pytest.importorskip("pyogrio.raw")
    meta, _, geometry, _ = raw.read(tmp_path / "map.gpkg")
    assert CRS.from_user_input(meta["crs"]) == into
    (x0, x1), (y0, y1) = transform(UTM, into, [501_000, 501_096], [5_393_936, 5_394_000])
    found = shapely.total_bounds(shapely.from_wkb(geometry))
    np.testing.assert_allclose(found, (x0, y0, x1, y1), rtol=0, atol=2e-2 if into == UTM else 2e-6)


def _rpc() -> RPC:
    line, sample, ones = [0.0, 0.0, -1.0] + [0.0] * 17, [0.0, 1.0] + [0.0] * 18, [1.0] + [0.0] * 19
    return RPC(0, 1, 48.7, 0.01, ones, line, 64, 64, 15.02, 0.01, ones, sample, 96, 96, None, None)


@pytest.mark.parametrize(
    ("more", "ending", "code"),
    [
        ({"points": ([GroundControlPoint(r, c, c, -r, 0.0) for r, c in CORNERS], CRS())}, ".geojson", "polygon-place"),
        ({"points": ([GroundControlPoint(r, r, r, -r, 0.0) for r in (0, 9, 99)], UTM)}, ".geojson", "polygon-place"),
        ({"points": ([GroundControlPoint(r, r, r, -r, 0.0) for r in (0, 9, 99)], UTM)}, ".gpkg", "polygon-place"),
        ({"points": ([GroundControlPoint(r, r, r, -r, 0.0) for r in (0, 99)], UTM)}, ".geojson", "polygon-place"),
        ({"rpcs": _rpc()}, ".geojson", "polygon-place"),
        ({"place": PLACE}, ".geojson", "polygon-place"),
        ({"place": PLACE, "crs": 'LOCAL_CS["site",UNIT["metre",1]]'}, ".geojson", "polygon-place"),
    ],
    ids=["no-system", "on-a-line", "on-a-line-gpkg", "two", "rpc", "transform-only", "site"],
)
def test_what_has_no_place_in_degrees_is_refused(
    model: Path, tmp_path: Path, more: dict[str, Any], ending: str, code: str
) -> None:
    source = write(tmp_path / "in.tif", **more)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EmraError) as caught:
        make(source, tmp_path / "map.tif", model, polygons=tmp_path / f"map{ending}", journal="on")
    assert caught.value.code == code
    assert sorted(tmp_path.iterdir()) == before


def test_degrees_that_are_none_are_said(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.tif", DEGREES, PLACE)
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    # The second is that the size of a pixel is unknown.
    warning, _ = report.warnings
    assert "are no degrees" in warning
    assert report.areas[0].square_metres is None


def test_a_plain_picture_says_that_polygons_are_in_pixels(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.tif")
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    # The second is that the size of a pixel is unknown.
    warning, _ = report.warnings
    assert "gets columns and rows" in warning


@pytest.mark.parametrize(
    ("crs", "place"),
    [
        (DEGREES, Affine(1e-4, 0, 179.99, 0, -1e-4, 10)),
        (DEGREES, Affine(1e-4, 0, -180.01, 0, -1e-4, 10)),
        (DEGREES, Affine(1e-4, 0, 180 - 48e-4, 0, -1e-4, 10)),
        (CRS.from_epsg(32601), Affine(10, 0, 170_100, 0, -10, 1_107_000)),
        (CRS.from_epsg(3832), Affine(10, 0, 3_338_500, 0, -10, 1_110_000)),
    ],
    ids=["degrees", "degrees-west", "on-a-square", "utm-zone-1", "pacific"],
)
def test_polygons_are_cut_at_180_degrees(model: Path, tmp_path: Path, crs: CRS, place: Affine) -> None:
    picture = np.zeros((128, 192, 3), np.uint8)
    picture[32:96, 16:176] = (255, 0, 0)
    picture[48:80, 80:112] = (0, 255, 0)
    source = write(tmp_path / "in.tif", crs, place, picture=picture)
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    content = json.loads((tmp_path / "map.geojson").read_text())["features"]
    outlines(tmp_path / "map.geojson")
    geod = pytest.importorskip("pyproj").Geod(ellps="WGS84")
    by_class = {area.name: area.square_metres for area in report.areas}
    sides = set()
    for feature in content:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        for part in shapely.get_parts(shape):
            west, _, east, _ = part.bounds
            assert east - west < 1
            sides.add(west > 0)
        metres = sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shape))
        # At the edge of a UTM zone areas of the grid are 0.2 % off.
        tolerance = 2.1e-3 if crs == CRS.from_epsg(32601) else 1e-4
        assert metres == pytest.approx(feature["properties"]["area_m2"], rel=tolerance)
        assert feature["properties"]["area_m2"] == pytest.approx(by_class[feature["properties"]["class"]], rel=1e-9)
    assert len(content) == 3
    assert sides == {True, False}


@pytest.mark.parametrize(("epsg", "north"), [(3413, True), (3031, False)])
def test_a_polygon_around_a_pole(model: Path, tmp_path: Path, epsg: int, north: bool) -> None:
    """A square of 64 km around the pole, with a hole of 32 km around it, in a frame."""
    picture = np.zeros((128, 192, 3), np.uint8)
    picture[32:96, 64:128] = (255, 0, 0)
    picture[48:80, 80:112] = (0, 255, 0)
    source = write(
        tmp_path / "in.tif", CRS.from_epsg(epsg), Affine(1000, 0, -96_000, 0, -1000, 64_000), picture=picture
    )
    report = make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    geod = pytest.importorskip("pyproj").Geod(ellps="WGS84")
    outlines(tmp_path / "map.geojson")
    shapes = {}
    for feature in json.loads((tmp_path / "map.geojson").read_text())["features"]:
        shapes[feature["properties"]["class"]] = shapely.from_geojson(json.dumps(feature["geometry"]))
    assert all(shape.is_valid for shape in shapes.values())
    pole = 90 if north else -90
    for longitude in (-150, -30, 60, 179):
        inside = [
            [
                name
                for name, shape in shapes.items()
                if shape.contains(shapely.Point(longitude, pole * (1 - km / 10_000)))
            ]
            for km in (10, 25, 60)
        ]
        assert inside == [["green"], ["red"], ["black"]]
    for area in report.areas:
        if area.name not in shapes:
            continue
        metres = sum(abs(geod.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shapes[area.name]))
        assert metres == pytest.approx(area.square_metres, rel=2e-3)


def test_digits_suit_the_pixels(model: Path, tmp_path: Path) -> None:
    """At 1 cm a pixel, corners are right to a hundredth of that."""
    place = Affine(0.01, 0, 501_000, 0, -0.01, 5_394_000)
    source = write(tmp_path / "in.tif", UTM, place)
    make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    assert_squares(tmp_path / "map.geojson", place, UTM, 1e-9)


def test_long_edges_bend_with_the_degrees(model: Path, tmp_path: Path) -> None:
    """An edge of 6.4 km along a UTM row leaves the straight line of degrees by a metre."""
    picture = np.full((64, 256, 3), (255, 0, 0), np.uint8)
    place = Affine(25, 0, 300_000, 0, -25, 5_394_000)
    source = write(tmp_path / "in.tif", UTM, place, picture=picture)
    make(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson")
    ((_, (ring,)),) = outlines(tmp_path / "map.geojson")
    (longitude,), (latitude,) = transform(UTM, DEGREES, [300_000 + 128 * 25], [5_394_000])
    assert np.abs(ring - [longitude, latitude]).max(axis=1).min() < 1e-7
