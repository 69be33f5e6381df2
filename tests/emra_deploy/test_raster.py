"""GeoTIFF in and out: the right pixels by windows, the georeference untouched, nothing guessed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.classes import ClassSet
from emra_deploy.errors import EmraError
from emra_deploy.georeference import GeoReference
from emra_deploy.inputs import open_input
from emra_deploy.label_files import BLOCK, LabelWriter
from emra_deploy.raster import RasterSource
from emra_deploy.scaling import Scale
from emra_deploy.sources import ArraySource
from emra_deploy.windows import Window

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

CLASSES = ClassSet(("ground", "rivière", "roof"), ((10, 20, 30), (0, 0, 255), (200, 0, 0)))
UTM = {"crs": "EPSG:32633", "transform": Affine(0.25, 0, 500_000.125, 0, -0.25, 5_400_000.375)}


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (3, 100, 130), np.uint8)


def write(path: Path, bands: np.ndarray, colours: str = "", mask: np.ndarray | None = None, **options) -> Path:
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    profile.update(count=bands.shape[0], height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype)
    with rasterio.open(path, "w", **{**profile, **options}) as dataset:
        if colours:
            dataset.colorinterp = [ColorInterp[name] for name in colours.split()]
        dataset.write(bands)
        if mask is not None:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                dataset.write_mask(mask)
    return path


def whole(source: RasterSource | ArraySource) -> Window:
    return Window(0, 0, source.height, source.width)


def code_of(path: Path, **options) -> str:
    def open_and_read() -> None:
        source = open_input(path, **options)
        source.read(whole(source))

    with pytest.raises(EmraError) as caught:
        open_and_read()
    assert "\n" not in str(caught.value)
    return caught.value.code


def read(path: Path, **options) -> tuple[np.ndarray, np.ndarray | None]:
    with RasterSource(path, **options) as source:
        return source.read(whole(source)), source.valid(whole(source))


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


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_truncated_rasters_are_refused(
    pixels: np.ndarray, tmp_path: Path, compress: str, tiled: bool, part: float
) -> None:
    path = write(tmp_path / "a.tif", pixels, compress=compress, tiled=tiled, photometric="RGB", **UTM)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert code_of(path) in ("image-truncated", "image-unreadable")


def test_jpeg_blocks_that_end_early_are_refused(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (3, 256, 256), np.uint8)
    path = write(tmp_path / "a.tif", bands, compress="jpeg", blockxsize=256, blockysize=256, photometric="RGB")
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        size = int(dataset.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1))
    middle = start + size // 2
    data[middle : middle + 2] = b"\xff\xd9"
    path.write_bytes(data)
    assert code_of(path) == "image-truncated"


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


def huge_tiff(path: Path, side: int, size: int) -> None:
    """A BigTIFF of one strip per row that declares side x side x 3 bytes and has ``size``."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 2), (277, 3, 3)]
    entries += [(322, 3, 256), (323, 3, 256), (324, 16, 0), (325, 16, 0)]
    tiles = (-(-side // 256)) ** 2
    body = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", len(entries))
    for tag, kind, value in entries:
        count = tiles if tag in (324, 325) else 1
        body += struct.pack("<HHQQ", tag, kind, count, 1000 if tag in (324, 325) else value)
    path.write_bytes((body + bytes(8)).ljust(size, b"\0"))


def test_small_file_that_declares_120_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    huge_tiff(path, 200_000, 1_200_000)
    program = (
        "import resource, sys\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.inputs import open_input\n"
        "from emra_deploy.windows import Window\n"
        "try:\n"
        "    open_input(sys.argv[1]).read(Window(0, 0, 512, 512))\n"
        "except EmraError as error:\n"
        "    print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    code, kilobytes = done.stdout.split()
    assert code in ("raster-implausible", "image-unreadable")
    assert int(kilobytes) < 400_000
    sparse = tmp_path / "sparse.tif"
    options = {"driver": "GTiff", "tiled": True, "sparse_ok": True, "bigtiff": "YES"}
    with rasterio.open(sparse, "w", width=200_000, height=200_000, count=3, dtype="uint8", **options):
        pass
    assert code_of(sparse) == "raster-implausible"


def test_one_huge_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 10_240, "blockysize": 10_240, "sparse_ok": True}
    with rasterio.open(path, "w", width=10_240, height=10_240, count=3, dtype="uint8", **options):
        pass
    assert code_of(path) == "raster-layout"


def test_one_huge_strip_is_read(tmp_path: Path) -> None:
    rows, columns = 4000, 1000
    path = tmp_path / "a.tif"
    pixels = np.arange(rows, dtype=np.uint32)[:, None, None] % 251 * np.ones((1, columns, 3), np.uint32)
    packed = zlib.compress(pixels.astype(np.uint8).tobytes(), 1)
    entries = [(256, 4, columns), (257, 4, rows), (258, 3, 8), (259, 3, 8), (262, 3, 2)]
    entries += [(273, 4, 8), (277, 3, 3), (278, 4, rows), (279, 4, len(packed))]
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + body + bytes(4))
    with RasterSource(path) as source:
        window = Window(3000, 500, 900, 64)
        np.testing.assert_array_equal(source.read(window), pixels[window.slices])
        assert source.valid(window) is None


def test_other_formats_do_not_pass_for_tiff(pixels: np.ndarray, tmp_path: Path) -> None:
    real = write(tmp_path / "real.tif", pixels)
    fake = tmp_path / "fake.tif"
    fake.write_text(
        '<VRTDataset rasterXSize="130" rasterYSize="100"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{real}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    assert code_of(fake) == "not-an-image"
    # A TIFF's first bytes do not help: only the TIFF driver is asked.
    fake.write_bytes(b"II*\0" + fake.read_bytes())
    assert code_of(fake) == "image-unreadable"
    for name in ("/vsicurl/http://localhost/a.tif", f"/vsizip/{real}", f"GTIFF_DIR:1:{real}", f"zip://{real}!a.tif"):
        assert code_of(Path(name)) == "input-missing"


def test_name_that_looks_like_a_scheme_is_a_file(pixels: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "real.tif", pixels)
    odd = tmp_path / "zip:a!b.tif"
    path.rename(odd)
    assert read(odd)[0].shape == (100, 130, 3)


def make_labels(height: int, width: int) -> np.ndarray:
    labels = np.random.default_rng(1).integers(0, 4, (height, width), np.uint8)
    labels[labels == 3] = 255
    return labels


def write_labels(path: Path, labels: np.ndarray, georeference: GeoReference | None, step: int) -> None:
    writer = LabelWriter(path, *labels.shape, CLASSES, georeference, {"EMRA_MODEL": "test"})
    for top in range(0, labels.shape[0], step):
        writer.write(labels[top : top + step])
    writer.finish()
    writer.close()


@pytest.mark.parametrize("step", [1, 100, 448, BLOCK, 3000])
def test_labels_come_back_whatever_the_rows(tmp_path: Path, step: int) -> None:
    labels = make_labels(BLOCK * 2 + 77, 700 if step > 1 else 30)
    write_labels(tmp_path / "a.tif", labels, None, step)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), labels)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]


def test_label_raster_describes_itself(tmp_path: Path) -> None:
    labels = make_labels(40, 50)
    write_labels(tmp_path / "a.tif", labels, None, 40)
    with rasterio.open(tmp_path / "a.tif") as dataset:
        assert (dataset.driver, dataset.dtypes, dataset.nodata) == ("GTiff", ("uint8",), 255)
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"
        assert dataset.colorinterp[0] == ColorInterp.palette
        assert [dataset.colormap(1)[label][:3] for label in range(3)] == list(CLASSES.palette)
        assert json.loads(dataset.tags()["EMRA_CLASSES"]) == list(CLASSES.names)
        assert dataset.tags()["CLASS_1"] == "rivière"
        assert dataset.tags()["EMRA_MODEL"] == "test"
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, labels != 255)


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
    points = [GroundControlPoint(r, c, 8 + c / 1e5, 50 - r / 1e5, 0.0) for r, c in ((0, 0), (0, 130), (100, 0))]
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
        ("EPSG:32633", Affine(0.25, 0, 0, 0, -0.25, 9), 0.0625),
        ("EPSG:32633", Affine(0.3, 0.8, 5, 0.6, -0.4, 7), 0.6),
        ("EPSG:2263", Affine(2, 0, 0, 0, -2, 9), 4 * 0.3048006096012192**2),
        ("EPSG:4326", Affine(1e-6, 0, 0, 0, -1e-6, 9), "degrees"),
        ("EPSG:3857", Affine(0.25, 0, 0, 0, -0.25, 9), "Mercator"),
        (None, Affine(0.25, 0, 0, 0, -0.25, 9), "no coordinate reference"),
        ("EPSG:32633", Affine.identity(), "no transform"),
    ],
)
def test_area_of_a_pixel(crs: str | None, transform: Affine, expected: float | str) -> None:
    reference = GeoReference(None if crs is None else rasterio.CRS.from_user_input(crs), transform)
    area, reason = reference.pixel_area_m2()
    if isinstance(expected, str):
        assert area is None
        assert reason is not None
        assert expected in reason
    else:
        assert area == pytest.approx(expected, rel=1e-12)
        assert reason is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [1_000, 100_000, 600_000])
def test_full_disk_is_an_error(tmp_path: Path, limit: int) -> None:
    program = (
        "import resource, sys, pathlib, numpy as np\n"
        "from emra_deploy.classes import ClassSet\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.files import atomic_output\n"
        "from emra_deploy.label_files import LabelWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "labels = np.random.default_rng(0).integers(0, 200, (1024, 1024), np.uint8)\n"
        "try:\n"
        "    with atomic_output(sys.argv[1]) as part:\n"
        "        writer = LabelWriter(part, 1024, 1024, ClassSet(('a',), ((1, 2, 3),)))\n"
        "        writer.write(labels)\n"
        "        writer.finish()\n"
        "except EmraError as error:\n"
        "    print(error.code)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "map.tif"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "output-write\n", done.stderr
    assert list(tmp_path.iterdir()) == []
