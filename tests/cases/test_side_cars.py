"""Pictures placed by files beside them, and links: the place that GDAL gives for the name that was typed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cases.builders import colour_model, make, segment, squares

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")
from rasterio.crs import CRS  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]
Affine = rasterio.Affine
UTM = CRS.from_epsg(32633)
UPRIGHT = Affine(0.5, 0, 501_000, 0, -0.5, 5_394_000)
TURNED = Affine(0.4, 0.3, 501_000, 0.3, -0.4, 5_394_000)
TAB = """!table
!version 300
Definition Table
  File "in.jpg"
  Type "RASTER"
  (501000,5394000) (0,0) Label "a",
  (501096,5394000) (192,0) Label "b",
  (501096,5393936) (192,128) Label "c",
  (501000,5393936) (0,128) Label "d"
  CoordSys Earth Projection 8, 104, "m", 15, 0, 0.9996, 500000, 0
  Units "m"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


def save(path: Path, picture: np.ndarray | None = None, **more: object) -> Path:
    image = Image.fromarray(squares()[0] if picture is None else picture)
    image.save(path, **{"quality": 95, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}, **more)
    return path


def world(path: Path, place: Affine) -> None:
    """A world file, which names the middle of the first pixel."""
    x, y = place.c + (place.a + place.b) / 2, place.f + (place.d + place.e) / 2
    path.write_text("\n".join(map(repr, (place.a, place.d, place.b, place.e, x, y))) + "\n")


def system(path: Path, crs: CRS = UTM) -> None:
    path.with_name(path.name + ".aux.xml").write_text(f"<PAMDataset><SRS>{crs.to_wkt()}</SRS></PAMDataset>")


def assert_placed(path: Path, place: Affine, crs: CRS | None, labels: np.ndarray | None = None) -> None:
    with rasterio.open(path) as dataset:
        np.testing.assert_allclose(dataset.transform[:6], place[:6], rtol=0, atol=1e-6)
        assert dataset.crs == crs
        np.testing.assert_array_equal(dataset.read(1), squares()[1] if labels is None else labels)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("in.jpg", "in.jgw"),
        ("in.jpg", "in.jpgw"),
        ("in.jpg", "in.wld"),
        ("in.jpg", "in.JGW"),
        ("in.JPG", "in.JGW"),
        ("in.JPG", "in.jgw"),
        ("in.jpeg", "in.jgw"),
        ("in.jpeg", "in.jpegw"),
        ("in.png", "in.pgw"),
        ("in.png", "in.pngw"),
        ("in.png", "in.wld"),
        ("in.PNG", "in.PGW"),
        ("in.tif", "in.tfw"),
        ("in.tif", "in.wld"),
        ("a.b.jpg", "a.b.jgw"),
    ],
)
@pytest.mark.parametrize("place", [UPRIGHT, TURNED], ids=["north-up", "turned"])
def test_world_files(model: Path, tmp_path: Path, name: str, beside: str, place: Affine) -> None:
    source = save(tmp_path / name)
    world(tmp_path / beside, place)
    system(source)
    with rasterio.open(source) as dataset:
        assert dataset.crs == UTM
        np.testing.assert_allclose(dataset.transform[:6], place[:6], rtol=0, atol=1e-6)
    report = make(source, tmp_path / "map.tif", model)
    assert_placed(tmp_path / "map.tif", place, UTM)
    assert [area.square_metres for area in report.areas[:3]] == pytest.approx([8 * 32 * 32 * 0.25] * 3, rel=1e-9)


def test_the_command_places_a_jpeg(model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "t.jpg")
    world(tmp_path / "t.jgw", UPRIGHT)
    system(source)
    said = segment(model, source, tmp_path / "map.tif", "--polygons", tmp_path / "map.geojson")
    assert_placed(tmp_path / "map.tif", UPRIGHT, UTM)
    assert (said["area_note"], said["warnings"], said["stderr"]) == (None, [], "")


def test_a_world_file_alone_and_a_system_alone(model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in.jpg")
    world(tmp_path / "in.jgw", UPRIGHT)
    report = make(source, tmp_path / "a.tif", model)
    assert_placed(tmp_path / "a.tif", UPRIGHT, None)
    assert report.area_note == "the picture has no coordinate reference system"
    (tmp_path / "in.jgw").unlink()
    system(source)
    make(source, tmp_path / "b.tif", model)
    assert_placed(tmp_path / "b.tif", Affine.identity(), UTM)


def test_other_side_cars_as_gdal_reads_them(model: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "in.jpg")
    (tmp_path / "in.tab").write_text(TAB)
    (tmp_path / "in.prj").write_text(CRS.from_epsg(32634).to_wkt())
    with rasterio.open(source) as dataset:
        expected = dataset.transform, dataset.crs
    assert expected[0].almost_equals(UPRIGHT)
    make(source, tmp_path / "map.tif", model)
    assert_placed(tmp_path / "map.tif", *expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["in.jpg", "in.tif"])
def test_a_turned_photograph(model: Path, tmp_path: Path, name: str, orientation: int) -> None:
    """The world file is of the picture as it is stored, which is turned by its EXIF orientation: the ground stays."""
    picture = np.full((128, 192, 3), 255, np.uint8)
    picture[:32, :32] = (255, 0, 0)
    picture[96:, 32:64] = (0, 255, 0)
    exif = Image.Exif()
    exif[274] = orientation
    source = save(tmp_path / name, picture, exif=exif)
    world(tmp_path / ("in.jgw" if name == "in.jpg" else "in.tfw"), TURNED)
    system(source)
    make(source, tmp_path / "map.tif", model)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        labels = dataset.read(1)
        for value, column, row in ((0, 16, 16), (1, 48, 112)):
            found = [np.mean(axis) + 0.5 for axis in np.nonzero(labels == value)]
            # 32 x 32 pixels about their middle.
            assert (labels == value).sum() == 32 * 32
            assert dataset.transform * found[::-1] == pytest.approx(TURNED * (column, row), abs=1e-6)
        assert dataset.crs == UTM


@pytest.mark.parametrize("link", ["file", "folder", "relative", "hard"])
@pytest.mark.parametrize("name", ["in.tif", "in.jpg"])
def test_links(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, link: str) -> None:
    """A store of blobs without names: the side-cars are beside the link."""
    store, shown = tmp_path / "store", tmp_path / "shown"
    store.mkdir()
    blob = save(store / name).rename(store / ("blob" if link != "folder" else name))
    if link == "folder":
        shown.symlink_to(store)
    else:
        shown.mkdir()
        if link == "hard":
            os.link(blob, shown / name)
        else:
            (shown / name).symlink_to("../store/blob" if link == "relative" else blob)
    world(shown / ("in.tfw" if name == "in.tif" else "in.jgw"), UPRIGHT)
    system(shown / name)
    if link == "relative":
        monkeypatch.chdir(shown)
    make(Path(name) if link == "relative" else shown / name, tmp_path / "map.tif", model)
    assert_placed(tmp_path / "map.tif", UPRIGHT, UTM)


def test_a_linked_mask_and_linked_overviews(model: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    source = save(tmp_path / "in.tif")
    mask = np.full((128, 192), 255, np.uint8)
    mask[:, :64] = 0
    with rasterio.open(
        tmp_path / "store" / "mask", "w", driver="GTiff", height=128, width=192, count=1, dtype="uint8"
    ) as dataset:
        dataset.write(mask, 1)
        dataset.update_tags(INTERNAL_MASK_FLAGS_1="2")
    (tmp_path / "in.tif.msk").symlink_to(tmp_path / "store" / "mask")
    with rasterio.open(source) as dataset:
        np.testing.assert_array_equal(dataset.dataset_mask(), mask)
    make(source, tmp_path / "map.tif", model)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), np.where(mask == 0, 255, squares()[1]))
