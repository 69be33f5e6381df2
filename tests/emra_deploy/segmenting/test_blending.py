"""Blending against the definition, computed over the whole picture at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.errors import EmraError
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import plan_tiles
from emra_deploy.segmenting.blending import Blender, class_shares, taper
from emra_deploy.segmenting.segmenter import Segmenter
from tests.onnx_models import build_model, make_manifest, nearest_colour, scene

CLASSES = 5
SIZE = 32


class Moody:
    """A backend whose logits depend on the picture and on the pixel's place in the tile, as a transformer's do."""

    name = "moody"
    input_shape = (None, SIZE, SIZE)
    manifest = make_manifest((SIZE, SIZE), heads=("classes", "logits"))

    def __init__(self) -> None:
        self.mood = np.random.default_rng(1).normal(size=(CLASSES, SIZE, SIZE)).astype(np.float32)
        self.tiles = 0

    def describe(self) -> dict[str, str]:
        return {}

    def logits(self, tile: np.ndarray) -> np.ndarray:
        red = tile[..., 0].astype(np.float32) / 64
        return self.mood * red - np.arange(CLASSES, dtype=np.float32)[:, None, None] * tile[..., 1] / 256

    def run(self, batch: np.ndarray) -> Outputs:
        check_batch(batch, self.input_shape)
        self.tiles += len(batch)
        logits = np.stack([self.logits(tile) for tile in batch])
        return {"classes": logits.argmax(1).astype(np.uint8), "logits": logits}

    def close(self) -> None:
        pass


def moody(halo: int | None = None, batch: int = 1) -> Segmenter:
    return Segmenter(Moody(), halo=halo, batch_size=batch, blend=True)


def picture_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(picture: np.ndarray, halo: int) -> np.ndarray:
    """Mean class shares in FP64, C x H x W, with every tile held at once."""
    height, width = picture.shape[:2]
    backend = Moody()
    side = np.maximum(np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE) ** 2, 1e-3)
    weight = np.outer(side, side)
    total, weights = np.zeros((CLASSES, height, width)), np.zeros((height, width))
    for tile in plan_tiles(height, width, SIZE, SIZE, halo):
        read = tile.read
        padding = ((0, SIZE - read.height), (0, SIZE - read.width), (0, 0))
        logits = backend.logits(np.pad(picture[read.slices], padding, mode="edge")).astype(np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(0)
        total[(slice(None), *read.slices)] += (shares * weight)[:, : read.height, : read.width]
        weights[read.slices] += weight[: read.height, : read.width]
    return total / weights


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 15), st.integers(1, 4))
def test_is_the_weighted_mean_of_all_tiles(height: int, width: int, halo: int, batch: int) -> None:
    picture = picture_of(height, width)
    result = moody(halo, batch).segment(picture)
    expected = whole(picture, halo)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    np.testing.assert_array_equal(result.labels[clear], expected.argmax(0)[clear])
    assert result.confidence is not None
    np.testing.assert_allclose(result.confidence, expected.max(0), atol=2e-6)


def test_rows_streamed_are_those_of_the_whole() -> None:
    picture = picture_of(150, 90)
    segmenter = moody()
    expected = segmenter.segment(picture).labels
    rows = list(segmenter.segment_rows(ArraySource(picture)))
    assert [window.top for window, _ in rows[1:]] == [window.bottom for window, _ in rows[:-1]]
    assert all(window.width == 90 for window, _ in rows)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in rows]), expected)


def test_tiles_overlap_by_half_by_default() -> None:
    assert moody().halo == SIZE // 4
    assert moody(halo=3).halo == 3


def test_half_overlapped_tapers_add_up_to_one() -> None:
    weights = taper(64).astype(np.float64)
    np.testing.assert_allclose(weights[:32] + weights[32:], 1, atol=3e-3)
    assert weights.min() > 0


def test_a_model_that_does_not_care_for_place_is_left_as_it_was(tmp_path: Path) -> None:
    build_model(tmp_path / "model.onnx", heads=("classes", "logits"))
    picture = scene(101, 77)
    segmenter = Segmenter.open(tmp_path / "model.onnx", threads=1, blend=True)
    np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))


def test_pixels_without_data_are_255_and_empty_tiles_are_not_run() -> None:
    picture = picture_of(130, 130)
    valid = np.zeros((130, 130), bool)
    valid[90:, 20:60] = True
    segmenter = moody()
    labels = np.concatenate([part for _, part in segmenter.segment_rows(ArraySource(picture, valid))])
    assert (labels[~valid] == 255).all()
    busy = [tile for tile in plan_tiles(130, 130, SIZE, SIZE, SIZE // 4) if valid[tile.read.slices].any()]
    assert segmenter.backend.tiles == len(busy)
    # All tiles that see a pixel with data were run, so its label is that of the picture without holes.
    np.testing.assert_array_equal(labels[valid], moody().segment(picture).labels[valid])


def test_shares_of_large_logits_stay_finite() -> None:
    logits = np.array([1e4, -1e4, 9.999e3], np.float32).reshape(3, 1, 1)
    shares = class_shares(logits)
    assert shares.sum() == pytest.approx(1)
    assert shares[:, 0, 0] == pytest.approx([1 / (1 + np.exp(-1)), 0, 1 - 1 / (1 + np.exp(-1))], abs=1e-6)
    assert logits[0, 0, 0] == np.float32(1e4)


def test_memory_is_that_of_one_band() -> None:
    blender = Blender(1000, CLASSES, (SIZE, SIZE))
    held = blender._shares.nbytes + blender._weights.nbytes
    assert held == (CLASSES + 1) * 4 * 1000 * SIZE


def test_a_model_without_logits_is_refused(tmp_path: Path) -> None:
    build_model(tmp_path / "model.onnx")
    with pytest.raises(EmraError) as caught:
        Segmenter.open(tmp_path / "model.onnx", blend=True)
    assert caught.value.code == "blend"
    assert "logits" in caught.value.remedy


@pytest.mark.parametrize("blend", [False, True])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 15), st.integers(1, 3), st.floats(0, 1))
def test_a_run_from_any_row_gives_the_bits_of_a_run_from_the_top(
    blend: bool, height: int, width: int, halo: int, batch: int, place: float
) -> None:
    picture = picture_of(height, width)
    segmenter = Segmenter(Moody(), halo=halo, batch_size=batch, blend=blend)
    start = round(place * height)
    labels = segmenter.segment(picture).labels
    run = segmenter.backend.tiles
    rows = list(segmenter.segment_rows(ArraySource(picture), start))
    assert segmenter.backend.tiles - run <= run
    if start == height:
        assert rows == []
        return
    assert rows[0][0].top == start
    np.testing.assert_array_equal(np.concatenate([part for _, part in rows]), labels[start:])
