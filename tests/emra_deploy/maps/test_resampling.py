"""Pictures at another ground sample distance: results are independent of the windows, and on the picture's grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from emra_deploy.maps.resampling import ResampledSource, scale_factor
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import plan_tiles
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import CLASSES, build_model, make_manifest, nearest_colour, scene


class Red:
    """Labels a pixel by its red channel."""

    name = "red"
    input_shape = (None, 32, 32)
    manifest = make_manifest()

    def describe(self) -> dict[str, str]:
        return {}

    def run(self, batch: np.ndarray) -> Outputs:
        check_batch(batch, self.input_shape)
        return {"classes": batch[..., 0] // 52}

    def close(self) -> None:
        pass


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + 7 * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


SIDES = st.integers(1, 90)
SCALES = st.floats(0.2, 4)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SCALES, st.integers(8, 40), st.integers(0, 3))
def test_windows_give_the_pixels_of_the_whole(height: int, width: int, factor: float, tile: int, halo: int) -> None:
    picture = noise(height, width)
    source = ResampledSource(ArraySource(picture), factor)
    whole = np.asarray(
        Image.fromarray(picture).resize((source.width, source.height), Image.Resampling.BILINEAR), np.int16
    )
    for plan in plan_tiles(source.height, source.width, tile, tile, halo):
        # Pillow rounds weights and both of its passes to 8 bits, from other origins.
        assert np.abs(source.read(plan.read) - whole[plan.read.slices]).max() <= 2


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SCALES, st.floats(0, 1))
def test_labels_come_back_on_the_grid_of_the_source(height: int, width: int, factor: float, place: float) -> None:
    picture = noise(height, width)
    source = ResampledSource(ArraySource(picture), factor)
    segmenter = Segmenter(Red())
    fine = np.concatenate([labels for _, labels in segmenter.segment_rows(source)])
    rows = [int((y + 0.5) * source.height / height) for y in range(height)]
    columns = [int((x + 0.5) * source.width / width) for x in range(width)]
    parts = list(source.rows(segmenter))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), fine[np.ix_(rows, columns)])
    assert [window.top for window, _ in parts[1:]] == [window.bottom for window, _ in parts[:-1]]
    start = round(place * height)
    rest = [labels for _, labels in source.rows(segmenter, start)]
    assert sum(map(len, rest)) == height - start
    if rest:
        np.testing.assert_array_equal(np.concatenate(rest), fine[np.ix_(rows, columns)][start:])


def test_rows_come_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = ArraySource(noise(200, 90))
    segmenter = Segmenter(Red())
    source = ResampledSource(picture, 0.3)
    whole = list(source.rows(segmenter))
    monkeypatch.setattr("emra_deploy.maps.resampling._PIECE_BYTES", 1000)
    pieces = list(source.rows(segmenter))
    assert len(pieces) > len(whole)
    assert all(labels.nbytes <= 1000 for _, labels in pieces)
    assert [window.top for window, _ in pieces[1:]] == [window.bottom for window, _ in pieces[:-1]]
    assert np.array_equal(np.concatenate([part for _, part in pieces]), np.concatenate([part for _, part in whole]))


@pytest.mark.parametrize("factor", [0.4, 1.7])
def test_pixels_without_data_stay_without(factor: float) -> None:
    valid = np.ones((60, 70), bool)
    valid[20:50, 30:60] = False
    source = ResampledSource(ArraySource(noise(60, 70), valid), factor)
    labels = np.concatenate([part for _, part in source.rows(Segmenter(Red()))])
    # On the inner side of an edge a pixel may be either, by where the middles lie.
    assert (labels[24:46, 34:56] == 255).all()
    outside = np.ones_like(valid)
    outside[16:54, 26:64] = False
    assert (labels[outside] != 255).all()


def test_factor_follows_the_two_sizes() -> None:
    assert scale_factor(0.6, 0.3) == pytest.approx(2)
    assert scale_factor(0.1, 0.3) == pytest.approx(1 / 3)
    assert scale_factor(0.31, 0.3) == 1
    assert scale_factor(None, 0.3) == scale_factor(0.3, None) == 1
    for picture in (30.0, 0.001):
        with pytest.raises(EmraError) as caught:
            scale_factor(picture, 0.3)
        assert caught.value.code == "gsd"


@pytest.fixture
def coarse(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A model for 0.3 m, a raster of 0.9 m, and its picture."""
    rasterio = pytest.importorskip("rasterio")
    build_model(tmp_path / "model.onnx", size=(32, 32))
    image = scene(80, 60)
    profile = {"driver": "GTiff", "height": 80, "width": 60, "count": 3, "dtype": "uint8", "crs": "EPSG:32640"}
    transform = rasterio.Affine(0.9, 0, 300_000, 0, -0.9, 2_780_000)
    with rasterio.open(tmp_path / "in.tif", "w", transform=transform, **profile) as raster:
        raster.write(image.transpose(2, 0, 1))
    return tmp_path / "model.onnx", tmp_path / "in.tif", image


def test_command_resamples_when_both_sizes_are_known(
    coarse: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source, image = coarse
    words = ["segment", str(source), "-m", str(model), "--json"]
    for options, factor, tiles in (
        ([], 3.0, plan_tiles(240, 180, 32, 32, 4)),
        (["--gsd", "off"], 1.0, plan_tiles(80, 60, 32, 32, 4)),
        (["--gsd", "0.6"], 2.0, plan_tiles(160, 120, 32, 32, 4)),
    ):
        out = tmp_path / f"map{factor}.tif"
        assert main([*words, *options, "-o", str(out), "--dry-run"]) == 0
        assert json.loads(capsys.readouterr().out)["tiles"] == len(tiles)
        assert main([*words, *options, "-o", str(out)]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["scale_factor"] == pytest.approx(factor)
        import rasterio

        with rasterio.open(out) as raster:
            assert (raster.height, raster.width, raster.transform.a) == (80, 60, 0.9)
            labels = raster.read(1)
        agree = (labels == nearest_colour(image, CLASSES)).mean()
        assert agree == 1 if factor == 1 else agree > 0.93


@pytest.mark.parametrize(
    ("given", "code"), [("0", "gsd"), ("-1", "gsd"), ("nan", "gsd"), ("wide", "gsd"), ("90", "gsd")]
)
def test_command_refuses_sizes_that_are_none(
    coarse: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, code: str
) -> None:
    model, source, _ = coarse
    assert main(["segment", str(source), "-m", str(model), "-o", str(tmp_path / "o.tif"), f"--gsd={given}"]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "o.tif").exists()
