"""Coordinate reference systems that GeoTIFF keys cannot hold: the map has them all the same, or nothing is run."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.cases.builders import colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")
from rasterio import shutil  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.crs import CRS  # noqa: E402

PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
_BASE = 'BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563]]]'
_METHOD = (
    'CONVERSION["UTM zone 33N",METHOD["Transverse Mercator",ID["EPSG",9807]],'
    'PARAMETER["Latitude of natural origin",0,ANGLEUNIT["degree",0.0174532925199433]],'
    'PARAMETER["Longitude of natural origin",15,ANGLEUNIT["degree",0.0174532925199433]],'
    'PARAMETER["Scale factor at natural origin",0.9996,SCALEUNIT["unity",1]],'
    'PARAMETER["False easting",500000,LENGTHUNIT["metre",1]],PARAMETER["False northing",0,LENGTHUNIT["metre",1]]]'
)
HEIGHTS = (
    f'PROJCRS["UTM 33N with heights",{_BASE},{_METHOD},CS[Cartesian,3],AXIS["easting",east],AXIS["northing",north],'
    'AXIS["ellipsoidal height",up],LENGTHUNIT["metre",1]]'
)
DERIVED = (
    f'DERIVEDPROJCRS["site grid",BASEPROJCRS["UTM 33N",{_BASE},{_METHOD}],'
    'DERIVINGCONVERSION["site",METHOD["Affine parametric transformation",ID["EPSG",9624]],'
    'PARAMETER["A0",-500000,LENGTHUNIT["metre",1]],PARAMETER["A1",1,SCALEUNIT["coefficient",1]],'
    'PARAMETER["A2",0,SCALEUNIT["coefficient",1]],PARAMETER["B0",0,LENGTHUNIT["metre",1]],'
    'PARAMETER["B1",0,SCALEUNIT["coefficient",1]],PARAMETER["B2",1,SCALEUNIT["coefficient",1]]],'
    'CS[Cartesian,2],AXIS["easting",east],AXIS["northing",north],LENGTHUNIT["metre",1]]'
)
ENGINEERING = 'ENGCRS["site",EDATUM["pillar 7"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
MARS = (
    'PROJCS["Mars",GEOGCS["GCS_Mars",DATUM["D_Mars",SPHEROID["Mars",3396190,169.894447223612]],'
    'PRIMEM["Reference_Meridian",0],UNIT["Degree",0.0174532925199433]],PROJECTION["Equirectangular"],'
    'PARAMETER["standard_parallel_1",0],PARAMETER["central_meridian",0],UNIT["metre",1]]'
)
BOUND = "+proj=utm +zone=33 +ellps=bessel +towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7 +units=m"
ROTATED_POLE = (
    "+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +R=6367470 +to_meter=0.0174532925199"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def write(path: Path, crs: object, epoch: str | None = None) -> np.ndarray:
    """The squares at `PLACE`; what the keys do not hold goes to a side-car. Returns their labels."""
    picture, labels = squares()
    height, width = labels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", transform=PLACE
    ) as dataset:
        dataset.write(picture.transpose(2, 0, 1))
    if crs is not None:
        wkt, moment = CRS.from_user_input(crs).to_wkt(), "" if epoch is None else f' coordinateEpoch="{epoch}"'
        path.with_name(path.name + ".aux.xml").write_text(f"<PAMDataset><SRS{moment}>{wkt}</SRS></PAMDataset>")
    return labels


def ellipsoidal_keys(path: Path) -> None:
    """Keys written by drone software: VerticalGeoKey (4096) is 5030, the ellipsoid of WGS 84."""
    write(path, None)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.crs = CRS.from_user_input("EPSG:32633+5773")
    found, wanted = struct.pack("<HHHH", 4096, 0, 1, 5773), struct.pack("<HHHH", 4096, 0, 1, 5030)
    content = path.read_bytes()
    assert content.count(found) == 1
    path.write_bytes(content.replace(found, wanted))


def crs_of(path: Path) -> CRS:
    with rasterio.open(path) as dataset:
        assert dataset.transform == PLACE
        return dataset.crs


@pytest.mark.parametrize("journal", ["on", "off"])
def test_heights_above_the_ellipsoid(model: Path, tmp_path: Path, journal: str) -> None:
    source, output = tmp_path / "in.tif", tmp_path / "map.tif"
    ellipsoidal_keys(source)
    assert crs_of(source).to_wkt(version="WKT2_2019").count("AXIS[") == 3
    trial = segment(model, source, output, "--dry-run")
    assert not output.exists()
    done = segment(model, source, output, "--journal", journal)
    for said in (trial, done):
        assert len(said["warnings"]) == 1
        assert '"WGS 84 / UTM zone 33N"' in said["warnings"][0]
        assert said["warnings"][0] in said["stderr"]
        assert said["stderr"].count("\n") == 1
    assert crs_of(output) == crs_of(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "map.tif", "map.tif.aux.xml"]
    with rasterio.open(output) as dataset:
        np.testing.assert_array_equal(dataset.read(1), squares()[1])


@pytest.mark.parametrize(
    ("crs", "beside"),
    [
        pytest.param(HEIGHTS, True, id="heights"),
        pytest.param(DERIVED, True, id="derived"),
        pytest.param(ENGINEERING, True, id="engineering"),
        pytest.param(ROTATED_POLE, True, id="rotated-pole"),
        pytest.param('LOCAL_CS["site grid",UNIT["metre",1]]', False, id="local"),
        pytest.param("EPSG:32633+5773", False, id="compound"),
        pytest.param("EPSG:4979", False, id="3d"),
        pytest.param(MARS, False, id="mars"),
        pytest.param(BOUND, False, id="bound"),
        pytest.param(
            "+proj=tmerc +lat_0=1.25 +lon_0=8.5 +k=0.9 +x_0=7 +y_0=9 +a=6378000 +b=6356000 +units=m", False, id="datum"
        ),
        pytest.param("EPSG:7856", False, id="moving"),
        pytest.param(None, False, id="none"),
    ],
)
def test_every_system_comes_back(model: Path, tmp_path: Path, crs: str | None, beside: bool) -> None:
    source, output = tmp_path / "in.tif", tmp_path / "map.tif"
    labels = write(source, crs)
    report = make(source, output, model)
    assert crs_of(output) == crs_of(source)
    assert bool(crs_of(output)) == (crs is not None)
    warned = any(warning.startswith("no GeoTIFF holds") for warning in report.warnings)
    assert ((tmp_path / "map.tif.aux.xml").exists(), warned) == (beside, beside)
    with rasterio.open(output) as dataset:
        np.testing.assert_array_equal(dataset.read(1), labels)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    if crs == BOUND:
        assert "TOWGS84[598.1" in crs_of(output).to_wkt()


def test_the_epoch_of_coordinates(model: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.tif", tmp_path / "map.tif"
    write(source, "EPSG:9000", epoch="2021.3")
    make(source, output, model)
    shutil.copy(output, tmp_path / "map.vrt", driver="VRT")
    assert 'coordinateEpoch="2021.3"' in (tmp_path / "map.vrt").read_text()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("crs", [CRS.from_wkt(HEIGHTS), CRS()], ids=["heights", "none"])
def test_ground_control_points_in_such_a_system(model: Path, tmp_path: Path, crs: CRS) -> None:
    source, output = tmp_path / "in.tif", tmp_path / "map.tif"
    points = [GroundControlPoint(r, c, 5e5 + c / 2, 5.4e6 - r / 2, 0.0) for r, c in ((0, 0), (0, 192), (128, 0))]
    picture, labels = squares()
    profile = {"driver": "GTiff", "height": 128, "width": 192, "count": 3, "dtype": "uint8"}
    with rasterio.open(source, "w", **profile) as dataset:
        dataset.gcps = (points, crs)
        dataset.write(picture.transpose(2, 0, 1))
    make(source, output, model)
    with rasterio.open(output) as dataset:
        kept, found = dataset.gcps
        assert (found or CRS()) == crs
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]
        np.testing.assert_array_equal(dataset.read(1), labels)


def test_files_beside_an_older_map(model: Path, tmp_path: Path) -> None:
    """GDAL would take the older map's side-cars for the new one's, and the side-car's system comes first."""
    source, output = tmp_path / "in.tif", tmp_path / "map.tif"
    labels = write(source, HEIGHTS)
    make(source, output, model)
    for name in ("map.tif.msk", "map.tif.ovr"):
        (tmp_path / name).write_bytes((source if name.endswith("ovr") else output).read_bytes())
    write(source, None)
    with rasterio.open(source, "r+") as dataset:
        dataset.crs = CRS.from_epsg(32634)
    output.unlink()
    assert "[output-exists]" in segment(model, source, output, fails=True)["stderr"]
    segment(model, source, output, "--overwrite")
    assert crs_of(output) == CRS.from_epsg(32634)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "map.tif"]
    with rasterio.open(output) as dataset:
        np.testing.assert_array_equal(dataset.read(1), labels)
