"""The size of a pixel on the ground: given, known, contradicting, far from the model's, or unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emra_deploy import EmraError, Manifest
from emra_deploy.models import gsd_of, shipped_model
from tests.cases.builders import colour_model, make, segment, squares
from tests.onnx_models import make_manifest

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")

UNKNOWN = "the picture's GSD is unknown"
APART = "a pixel of the picture is"


def photo(path: Path, **more: object) -> Path:
    Image.fromarray(squares()[0]).save(path, quality=95, subsampling=0, **more)
    return path


def raster(path: Path, metres: float, crs: str | None = "EPSG:32633") -> Path:
    place = rasterio.Affine(metres, 0, 501_000, 0, -metres, 5_394_000)
    size = {"height": 128, "width": 192, "count": 3, "dtype": "uint8", "crs": crs}
    with rasterio.open(path, "w", driver="GTiff", transform=place, **size) as dataset:
        dataset.write(squares()[0].transpose(2, 0, 1))
    return path


def assert_right(path: Path) -> None:
    if path.suffix == ".tif":
        with rasterio.open(path) as dataset:
            found = dataset.read(1)
    else:
        found = np.asarray(Image.open(path))
    np.testing.assert_array_equal(found, squares()[1])


@pytest.mark.parametrize("output", ["map.png", "map.tif"])
def test_the_size_that_was_given_for_a_photograph(tmp_path: Path, output: str) -> None:
    """The dots per inch and the place of EXIF say nothing of the ground, and are not taken for it."""
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 42.0, 0.0), 3: "E", 4: (15.0, 1.0, 0.0), 6: 120.0})
    source = photo(tmp_path / "photo.jpg", dpi=(72, 72), exif=exif)
    said = segment(colour_model(tmp_path, gsd=0.1), source, tmp_path / output, "--gsd", "0.05")
    assert [area["square_metres"] for area in said["areas"][:3]] == pytest.approx([8 * 32 * 32 * 0.0025] * 3, rel=1e-12)
    assert (said["scale_factor"], said["area_note"]) == (0.5, None)
    assert_right(tmp_path / output)


def test_without_it_a_photograph_has_no_size(tmp_path: Path) -> None:
    source = photo(tmp_path / "photo.jpg", dpi=(72, 72))
    said = segment(colour_model(tmp_path, gsd=0.1), source, tmp_path / "map.png")
    (warning,) = said["warnings"]
    assert warning.startswith(UNKNOWN)
    assert "--gsd" in warning
    assert said["stderr"] == ""
    shown = segment(colour_model(tmp_path, gsd=0.1), source, tmp_path / "b.png", "--verbose")
    assert warning in shown["stderr"]
    assert {area["square_metres"] for area in said["areas"]} == {None}


@pytest.mark.parametrize(("given", "warns"), [(0.5, False), (0.51, False), (0.05, True), (5.0, True)])
def test_a_size_that_contradicts_the_georeference(tmp_path: Path, given: float, warns: bool) -> None:
    source = raster(tmp_path / "in.tif", 0.5)
    report = make(source, tmp_path / "map.tif", colour_model(tmp_path), gsd=given)
    assert report.areas[0].square_metres == pytest.approx(8 * 32 * 32 * given**2, rel=1e-12)
    assert [warning.startswith("a pixel is 0.5 m by the georeference") for warning in report.warnings] == [True] * warns


@pytest.mark.parametrize(
    ("metres", "model", "factor", "begins"),
    [
        (0.5, 0.5, 1, None),
        (0.5, 0.3, 0.5 / 0.3, None),
        (0.5, 0.1, 5, APART),
        (0.05, (1.0, 2.0), 1 / 16, APART),
        (0.25, (1.0, 2.0), 0.25, APART),
        (0.8, (1.0, 2.0), 0.8, None),
        (1.5, (1.0, 2.0), 1, None),
        (2.1, (1.0, 2.0), 1, None),
        (3.0, (1.0, 2.0), 1.5, None),
        (10.0, (1.0, 2.0), 5, APART),
        (0.5, None, 1, "the model's GSD is unknown"),
    ],
)
def test_scales_that_are_far_apart(
    tmp_path: Path, metres: float, model: object, factor: float, begins: str | None
) -> None:
    source = raster(tmp_path / "in.tif", metres)
    report = make(source, tmp_path / "map.tif", colour_model(tmp_path, gsd=model))
    assert report.scale_factor == pytest.approx(factor)
    assert [warning[: len(begins or "")] for warning in report.warnings] == ([] if begins is None else [begins])
    assert all("\n" not in warning for warning in report.warnings)
    if factor >= 1:
        assert_right(tmp_path / "map.tif")


def test_a_placed_picture_without_a_size(tmp_path: Path) -> None:
    source = raster(tmp_path / "in.tif", 0.5, crs=None)
    said = segment(colour_model(tmp_path, gsd=0.1), source, tmp_path / "map.tif")
    (warning,) = said["warnings"]
    assert warning.startswith(UNKNOWN)
    assert said["stderr"] == f"emra: WARNING: {warning}\n"


def test_off_says_nothing(tmp_path: Path) -> None:
    report = make(raster(tmp_path / "in.tif", 0.05), tmp_path / "map.tif", colour_model(tmp_path, gsd=5.0), gsd="off")
    assert (report.scale_factor, report.warnings) == (1, ())


def test_one_size_beyond_all_measure_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(EmraError) as caught:
        make(raster(tmp_path / "in.tif", 0.05), tmp_path / "map.tif", colour_model(tmp_path, gsd=5.0))
    assert caught.value.code == "gsd"


def test_the_shipped_model_knows_its_range(tmp_path: Path) -> None:
    """A drone's raster of 5 cm goes into a model for 1 to 2 m."""
    said = segment(shipped_model(), raster(tmp_path / "in.tif", 0.05), tmp_path / "map.tif", "--dry-run")
    (warning,) = said["warnings"]
    assert warning.startswith("a pixel of the picture is 0.05 m, and the model was trained on 1 to 2 m")
    assert said["stderr"].count(warning) == 1
    command = [sys.executable, "-m", "emra_deploy", "info", str(shipped_model()), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["gsd"] == [1.0, 2.0]


def test_a_manifest_holds_a_range() -> None:
    manifest = Manifest.from_json(Manifest(**{**make_manifest().__dict__, "gsd": (0.5, 2.0)}).to_json())
    assert manifest.gsd == gsd_of(manifest) == (0.5, 2.0)
    assert json.loads(manifest.to_metadata()["resolution"]) == 100
    assert gsd_of(make_manifest()) == 0.3


@pytest.mark.parametrize("gsd", [(2.0, 1.0), (1.0,), (1.0, 2.0, 3.0), (0.0, 1.0), ("1", "2"), (1.0, float("nan"))])
def test_a_range_that_is_none_is_refused(gsd: tuple[object, ...]) -> None:
    with pytest.raises(EmraError) as caught:
        Manifest(**{**make_manifest().__dict__, "gsd": gsd})
    assert caught.value.code == "manifest-field"
