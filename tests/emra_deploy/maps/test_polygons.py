"""Polygons against shapely, pyogrio and the labels they were traced from."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from emra_deploy.maps.job import MapJob
from emra_deploy.maps.polygons import class_labels, signed_area, trace, write_polygons
from emra_deploy.pictures.georeference import GeoReference
from tests.emra_deploy.maps.map_jobs import run_job
from tests.emra_deploy.pictures.raster_files import CLASSES, rasterio, write, write_labels
from tests.onnx_models import CLASSES as FIVE
from tests.onnx_models import nearest_colour, scene

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
pytest.importorskip("pyogrio.raw")

UTM = rasterio.crs.CRS.from_epsg(32640)
TRANSFORM = rasterio.Affine(0.5, 0, 300_000, 0, -0.5, 2_780_000)
TURNED = rasterio.Affine(0.433, 0.25, 300_000, 0.25, -0.433, 2_780_000)


def place(transform: object = TRANSFORM, crs: object = UTM) -> GeoReference:
    return GeoReference(crs, transform)


def write_all(
    raster: Path,
    output: Path,
    georeference: GeoReference,
    *,
    labels: tuple[int, ...] = (0, 1, 2),
    least: float = 1,
) -> int:
    with rasterio.open(raster) as dataset:
        ground, _ = georeference.pixel_areas(*dataset.shape)
    settings = {"labels": labels, "least": (least, 0.0), "georeference": georeference, "ground": ground}
    return write_polygons(raster, output, CLASSES, **settings)


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """Labels in blocks, with islands, holes and gaps without data."""
    random = np.random.default_rng(seed)
    coarse = random.choice([0, 1, 2, 255], (-(-height // 3), -(-width // 3)))
    return np.kron(coarse, np.ones((3, 3)))[:height, :width].astype(np.uint8)


def draw(geometries: list[tuple[object, int]], like: np.ndarray, transform: object) -> np.ndarray:
    """The raster that polygons came from: which of them holds the middle of each pixel."""
    rows, columns = np.mgrid[: like.shape[0], : like.shape[1]] + 0.5
    a, b, c, d, e, f = transform[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    drawn = np.full_like(like, 255)
    for shape, label in geometries:
        inside = shapely.contains_xy(shape, x, y)
        assert (drawn[inside] == 255).all()
        drawn[inside] = label
    return drawn


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_polygons_hold_every_labelled_pixel_once(tmp_path: Path, height: int, width: int, seed: int) -> None:
    labels = blobs(height, width, seed)
    write_labels(tmp_path / "a.tif", labels, place(), height)
    polygons = list(trace(tmp_path / "a.tif"))
    shapes = [shapely.Polygon(polygon.rings[0], polygon.rings[1:]) for polygon in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert [polygon.pixels for polygon in polygons] == [round(shape.area) for shape in shapes]
    drawn = draw([(s, p.label) for s, p in zip(shapes, polygons, strict=True)], labels, rasterio.Affine.identity())
    np.testing.assert_array_equal(drawn, labels)
    for label in range(3):
        assert sum(polygon.pixels for polygon in polygons if polygon.label == label) == (labels == label).sum()


@pytest.mark.parametrize("transform", [TRANSFORM, TURNED], ids=["north-up", "rotated"])
def test_geopackage_keeps_the_coordinates(tmp_path: Path, transform: object) -> None:
    labels = blobs(60, 90, 1)
    write_labels(tmp_path / "a.tif", labels, place(transform), 60)
    count = write_all(tmp_path / "a.tif", tmp_path / "a.gpkg", place(transform))
    meta, _, geometry, columns = pyogrio.raw.read(tmp_path / "a.gpkg")
    names = list(meta["fields"])
    assert (names, meta["crs"], len(geometry)) == (["class", "label", "pixels", "area_m2"], "EPSG:32640", count)
    shapes = shapely.from_wkb(geometry)
    assert shapely.is_valid(shapes).all()
    by_name = dict(zip(names, columns, strict=True))
    np.testing.assert_allclose(shapely.area(shapes), by_name["area_m2"], rtol=1e-4)
    np.testing.assert_allclose(by_name["area_m2"], by_name["pixels"] * abs(transform.determinant), rtol=1e-3)
    assert [CLASSES.names[label] for label in by_name["label"]] == list(by_name["class"])
    drawn = draw(list(zip(shapes, map(int, by_name["label"]), strict=True)), labels, transform)
    np.testing.assert_array_equal(drawn, labels)


def test_geojson_is_in_degrees_with_outlines_counter_clockwise(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[5:25, 5:25] = 1
    labels[10:15, 10:15] = 255
    write_labels(tmp_path / "a.tif", labels, place(), 30)
    assert write_all(tmp_path / "a.tif", tmp_path / "a.geojson", place()) == 2
    content = json.loads((tmp_path / "a.geojson").read_text())
    by_class = {feature["properties"]["class"]: feature for feature in content["features"]}
    inner = by_class[CLASSES.names[1]]
    assert inner["properties"] == {"class": "rivière", "label": 1, "pixels": 375, "area_m2": 93.75}
    rings = [np.array(ring) for ring in inner["geometry"]["coordinates"]]
    assert len(rings) == 2
    assert signed_area(rings[0]) > 0 > signed_area(rings[1])
    xs, ys = [300_002.5, 300_012.5, 300_012.5, 300_002.5], [2_779_997.5, 2_779_997.5, 2_779_987.5, 2_779_987.5]
    corners = np.stack(rasterio.warp.transform(UTM, "EPSG:4326", xs, ys), axis=1)
    assert np.abs(rings[0][:, None] - corners).max(axis=2).min(axis=0).max() < 1e-7
    assert pyogrio.read_info(tmp_path / "a.geojson")["crs"] == "EPSG:4326"


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson"])
def test_without_a_place_polygons_are_in_columns_and_rows(tmp_path: Path, name: str) -> None:
    labels = np.full((20, 30), 2, np.uint8)
    write_labels(tmp_path / "a.tif", labels, GeoReference(), 20)
    assert write_all(tmp_path / "a.tif", tmp_path / name, GeoReference()) == 1
    _, _, geometry, columns = pyogrio.raw.read(tmp_path / name)
    assert shapely.from_wkb(geometry)[0].bounds == (0, 0, 30, 20)
    assert columns[2][0] == 600


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson"])
def test_classes_and_least_areas_choose(tmp_path: Path, name: str) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[2:5, 2:5] = 1
    labels[10:20, 10:20] = 1
    labels[30:32, 30:32] = 2
    write_labels(tmp_path / "a.tif", labels, place(), 40)

    def pixels(labels: tuple[int, ...], least: float = 1) -> list[int]:
        write_all(tmp_path / "a.tif", tmp_path / name, place(), labels=labels, least=least)
        _, _, geometry, columns = pyogrio.raw.read(tmp_path / name)
        # An empty GeoJSON names no columns.
        return sorted(map(int, columns[2])) if len(geometry) else []

    assert pixels(class_labels(CLASSES, None)) == [4, 9, 100, 1487]
    assert pixels(class_labels(CLASSES, [CLASSES.names[1]])) == [9, 100]
    assert pixels((1, 2), 9) == [9, 100]
    assert pixels((1, 2), 9.04) == [100]
    assert pixels((2,), 5) == []


@pytest.mark.parametrize("fault", ["raises", "loses"])
def test_an_incomplete_geopackage_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    write = pyogrio.raw.write

    def fails(path: Path, geometry: np.ndarray, columns: list[np.ndarray], *rest: object, **more: object) -> None:
        if fault == "raises":
            Path(f"{path}-journal").write_bytes(b"half")
            raise pyogrio.errors.FeatureError("sqlite3_step() failed: disk I/O error")
        write(path, geometry[:-1], [column[:-1] for column in columns], *rest, **more)

    monkeypatch.setattr(pyogrio.raw, "write", fails)
    write_labels(tmp_path / "a.tif", blobs(20, 30, 1), place(), 20)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(
        EmraError, match="disk I/O error" if fault == "raises" else "polygons are in the file"
    ) as caught:
        write_all(tmp_path / "a.tif", folder / "out.gpkg", place())
    assert caught.value.code == "output-write"
    assert {path.name for path in folder.iterdir()} <= {"out.gpkg"}


@pytest.mark.parametrize("names", [["forest"], []])
def test_classes_that_the_model_does_not_have_are_refused(names: list[str]) -> None:
    with pytest.raises(EmraError) as caught:
        class_labels(CLASSES, names)
    assert caught.value.code == "polygon-class"


@pytest.mark.parametrize("least", [{"min_pixels": 0}, {"min_area": -1.0}, {"min_area": float("nan")}])
def test_least_areas_out_of_range_are_refused(least: dict[str, float]) -> None:
    with pytest.raises(EmraError) as caught:
        MapJob("in.tif", "map.tif", polygons="map.geojson", **least)
    assert caught.value.code == "polygon-area"


def test_square_metres_need_a_place(model: Path, tmp_path: Path) -> None:
    source = write_raster(tmp_path / "in.tif", scene(20, 20), crs=None)
    with pytest.raises(EmraError) as caught:
        run_job(source, tmp_path / "map.tif", model, polygons=tmp_path / "map.geojson", min_area=3.0)
    assert caught.value.code == "polygon-area"
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def write_raster(path: Path, image: np.ndarray, crs: object = UTM) -> Path:
    return write(path, image.transpose(2, 0, 1), tiled=False, crs=crs, transform=TRANSFORM)


def test_command_outlines_the_classes_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = scene(120, 150)
    source = write_raster(tmp_path / "in.tif", image)
    words = ["segment", str(source), "-m", str(model), "-o", str(tmp_path / "map.tif"), "--json"]
    words += ["--polygons", str(tmp_path / "map.gpkg"), "--polygon-classes", "building, water", "--min-area", "1"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    _, _, geometry, columns = pyogrio.raw.read(tmp_path / "map.gpkg")
    assert report["outputs"]["polygon_count"] == len(geometry) > 0
    assert set(columns[0]) <= {"building", "water"}
    labels = nearest_colour(image)
    wanted = np.isin(labels, [FIVE.names.index("building"), FIVE.names.index("water")]).sum() * 0.25
    small = len(trace_small(tmp_path / "map.tif"))
    assert wanted - small <= columns[3].sum() <= wanted


def trace_small(path: Path) -> list[int]:
    """Polygons below 4 pixels, which are a square metre."""
    return [polygon.pixels for polygon in trace(path) if polygon.pixels < 4]


@pytest.mark.parametrize(
    ("writer", "output"),
    [
        ("emra_deploy.maps.label_files.RasterWriter.finish", "map.tif"),
        ("emra_deploy.maps.preview.Preview.save", "over.png"),
        ("emra_deploy.maps.outputs.write_polygons", "map.geojson"),
    ],
)
def test_a_full_disk_names_the_output_that_it_met(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, output: str
) -> None:
    def full(*_: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, full)
    source = write_raster(tmp_path / "in.tif", scene(64, 64))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EmraError, match="No space left on device") as caught:
        run_job(source, folder / "map.tif", model, overlay=folder / "over.png", polygons=folder / "map.geojson")
    assert (caught.value.code, caught.value.path) == ("output-write", str(folder / output))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "output", "code"),
    [
        (["--polygons", "p.shp"], "map.tif", "output-suffix"),
        (["--polygons", "p.gpkg"], "map.png", "output-suffix"),
        (["--polygons", "p.gpkg", "--polygon-classes", "moon"], "map.tif", "polygon-class"),
        (["--polygons", "p.gpkg", "--polygon-classes", "moon", "--dry-run"], "map.tif", "polygon-class"),
        (["--polygons", "p.geojson", "--min-pixels", "0"], "map.tif", "polygon-area"),
        (["--polygons", "there.gpkg"], "map.tif", "output-exists"),
        (["--journal", "on", "--polygons", "missing/p.gpkg"], "map.tif", "output-folder-missing"),
    ],
)
def test_command_refuses(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    output: str,
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_raster(Path("in.tif"), scene(40, 40))
    Path("there.gpkg").write_bytes(b"kept")
    assert main(["segment", "in.tif", "-m", str(model), "-o", output, *more]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["in.tif", "there.gpkg"]
    assert Path("there.gpkg").read_bytes() == b"kept"
