"""Overviews of labels: the most frequent of four, at any size."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from emra_deploy.maps.label_levels import BLOCK, LabelLevels, halve_labels

LABELS = st.sampled_from([0, 1, 2, 255])


def slow_halves(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same, pixel by pixel: Counter keeps the order in which values were met."""
    height, width = labels.shape
    halves = np.empty((-(-height // 2), -(-width // 2)), np.uint8)
    for row, column in np.ndindex(*halves.shape):
        votes = Counter(labels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist())
        del votes[255]
        halves[row, column] = votes.most_common(1)[0][0] if votes else 255
    return halves


@given(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=LABELS))
def test_the_most_frequent_of_four(labels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(halve_labels(labels), slow_halves(labels))


def test_gdal_agrees_wherever_one_label_leads(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    labels = np.random.default_rng(0).integers(0, 3, (256, 384), np.uint8)
    labels[:40, :40] = 255
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=256, width=384, count=1, dtype="uint8", nodata=255
    ) as raster:
        raster.write(labels, 1)
        raster.build_overviews([2], rasterio.enums.Resampling.mode)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as overview:
        theirs = overview.read(1)
    blocks = labels.reshape(128, 2, 192, 2).transpose(0, 2, 1, 3).reshape(128, 192, 4)
    votes = np.sort(np.stack([(blocks == label).sum(2) for label in range(3)]), axis=0)
    leads = (votes[2] > votes[1]) | (votes[2] == 0)
    assert leads.mean() > 0.5
    np.testing.assert_array_equal(halve_labels(labels)[leads], theirs[leads])


@pytest.mark.parametrize("step", [1, 64, 700])
@pytest.mark.parametrize("size", [(40, 50), (BLOCK, BLOCK), (BLOCK + 1, 3), (2 * BLOCK + 77, 3 * BLOCK + 5)])
def test_every_level_is_in_its_file_and_sums(tmp_path: Path, size: tuple[int, int], step: int) -> None:
    rasterio = pytest.importorskip("rasterio")
    expected = np.random.default_rng(1).integers(0, 6, size, np.uint8)
    levels = LabelLevels(rasterio, tmp_path / "rows.tif", *size)
    try:
        for top in range(0, size[0], step):
            levels.write(rasterio, expected[top : top + step])
        assert levels.rows == size[0]
        levels.finish()
        for path, sums in zip(levels.paths, levels.sums, strict=True):
            with rasterio.open(path) as raster:
                np.testing.assert_array_equal(raster.read(1), expected)
            corners = [(r, c) for r in range(0, expected.shape[0], BLOCK) for c in range(0, expected.shape[1], BLOCK)]
            assert sums == [zlib.crc32(expected[r : r + BLOCK, c : c + BLOCK].tobytes()) for r, c in corners]
            last, expected = expected, halve_labels(expected)
        assert max(last.shape) <= BLOCK
        assert len(levels.paths) == 1 or max(size) > BLOCK
    finally:
        levels.close()
    assert list(tmp_path.iterdir()) == []


def test_one_file_that_cannot_be_closed_does_not_keep_the_others(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")

    class Stuck:
        closed = False

        def close(self) -> None:
            raise OSError("Input/output error")

    levels = LabelLevels(rasterio, tmp_path / "rows.tif", 3 * BLOCK, BLOCK)
    first = levels.dataset
    levels._levels[0].dataset = Stuck()
    with pytest.raises(OSError, match="Input/output error"):
        levels.close()
    first.close()
    assert len(levels.paths) == 3
    assert [path for path in levels.paths[1:] if path.exists()] == []
