"""The demo as `make demo` runs it, with a small model instead of the shipped one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.onnx_models import CLASSES, build_model, nearest_colour, scene
from training.data.scenes import DUBAI_CLASSES

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the scene's classes, whose answer is known."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    build_model(path, classes=DUBAI_CLASSES, gsd=1.5)
    return path


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "examples" / "demo.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_scene_is_mapped_and_scored(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    for _ in range(2):  # The second run replaces what the first one left.
        done = demo("--model", model, "--side", 96, "--output", folder)
        assert (done.returncode, done.stderr) == (0, "")
    with (
        rasterio.open(folder / "scene.tif") as picture,
        rasterio.open(folder / "scene_truth.tif") as true,
        rasterio.open(folder / "scene_map.tif") as made,
    ):
        assert (made.crs, tuple(made.transform)) == (picture.crs, tuple(picture.transform))
        assert made.crs.is_projected
        labels, truth = made.read(1), true.read(1)
        np.testing.assert_array_equal(labels, nearest_colour(picture.read().transpose(1, 2, 0), DUBAI_CLASSES))
    with Image.open(folder / "scene_overlay.png") as overlay:
        assert overlay.width >= 96
        assert overlay.height >= 96

    ious = []
    for label, name in enumerate(DUBAI_CLASSES.names):
        both, either = (labels == label) & (truth == label), (labels == label) | (truth == label)
        iou = both.sum() / either.sum() if either.any() else None
        ious += [] if iou is None else [iou]
        assert re.search(rf"^ *{name} +{'nan' if iou is None else f'{iou:.3f}'} ", done.stdout, re.MULTILINE)
    accuracy = np.mean(labels == truth)
    assert f"mIoU {np.mean(ious):.3f}, overall accuracy {accuracy:.3f}\n" in done.stdout
    for name in ("scene.tif", "scene_map.tif", "scene_overlay.png"):
        assert str(folder / name) in done.stdout, "what was made is named"
    assert re.search(r"building +[\d,]+ +[\d.]+ +[\d,.]+", done.stdout), "areas are printed"


def test_a_picture_of_ones_own_is_mapped_without_a_score(model: Path, tmp_path: Path) -> None:
    image = scene(50, 70, classes=DUBAI_CLASSES)
    Image.fromarray(image).save(tmp_path / "mine.png")
    done = demo(tmp_path / "mine.png", "--model", model, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mIoU" not in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mine_map.png", "mine_overlay.png"}
    with Image.open(tmp_path / "out" / "mine_map.png") as made:
        np.testing.assert_array_equal(np.asarray(made), nearest_colour(image, DUBAI_CLASSES))


def test_a_geotiff_of_ones_own_keeps_its_place(model: Path, tmp_path: Path) -> None:
    image = scene(40, 60, classes=DUBAI_CLASSES)
    # The model's own ground sample distance, so that nothing is resampled.
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1.5, 0, 500_000, 0, -1.5, 5_400_000)}
    options = {"driver": "GTiff", "count": 3, "height": 40, "width": 60, "dtype": "uint8", **place}
    with rasterio.open(tmp_path / "mine.TIF", "w", **options) as raster:
        raster.write(image.transpose(2, 0, 1))
    done = demo(tmp_path / "mine.TIF", "--model", model, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    areas = re.findall(r" ([\d,]+) +[\d.]+ +([\d,.]+)$", done.stdout, re.MULTILINE)
    assert sum(int(pixels.replace(",", "")) for pixels, _ in areas) == 40 * 60
    assert sum(float(area.replace(",", "")) for _, area in areas) == pytest.approx(40 * 60 * 2.25, abs=0.5)
    with rasterio.open(tmp_path / "out" / "mine_map.tif") as made:
        assert (made.crs.to_epsg(), made.transform) == (32633, place["transform"])
        np.testing.assert_array_equal(made.read(1), nearest_colour(image, DUBAI_CLASSES))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("missing.tif",), "input-missing"),
        (("--side", "8"), "scene-argument"),
    ],
)
def test_mistakes_exit_2_with_one_line(model: Path, tmp_path: Path, words: tuple[str, ...], code: str) -> None:
    done = demo(*words, "--model", model, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert code in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_of_other_classes_is_not_scored(tmp_path: Path) -> None:
    build_model(tmp_path / "model.onnx", classes=CLASSES)
    done = demo("--model", tmp_path / "model.onnx", "--side", 48, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "class-mismatch" in done.stderr
    assert "mIoU" not in done.stdout
