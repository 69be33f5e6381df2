"""The tiling plan, against its definition checked pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.errors import EmraError
from emra_deploy.pictures.windows import Tile, Window, default_halo, iter_tiles, plan_tiles

# A slow machine is no failure, and the plans of one pixel tiles take long to check.
quick = settings(max_examples=50, deadline=None)


@st.composite
def plans(draw: st.DrawFn, largest: int = 50) -> tuple[int, int, int, int, int]:
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    tile_height, tile_width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    halo = draw(st.integers(0, (min(tile_height, tile_width) - 1) // 2))
    return height, width, tile_height, tile_width, halo


def distance(pixel: int, start: int, stop: int, length: int) -> float:
    """Of a pixel to the nearer edge of [start, stop), image borders not being edges."""
    left = np.inf if start == 0 else pixel - start
    right = np.inf if stop == length else stop - 1 - pixel
    return min(left, right) if start <= pixel < stop else -1


@quick
@given(plans(largest=120))
def test_every_pixel_is_written_once(plan: tuple[int, int, int, int, int]) -> None:
    height, width, *_ = plan
    count = np.zeros((height, width), int)
    for tile in plan_tiles(*plan):
        count[tile.write.slices] += 1
        assert tile.write.bottom <= height
        assert tile.write.right <= width
    assert (count == 1).all()


@quick
@given(plans(largest=120))
def test_reads_stay_inside_and_contain_writes(plan: tuple[int, int, int, int, int]) -> None:
    height, width, tile_height, tile_width, _ = plan
    for tile in plan_tiles(*plan):
        assert tile.read.height == min(tile_height, height)
        assert tile.read.width == min(tile_width, width)
        assert tile.read.bottom <= height
        assert tile.read.right <= width
        assert tile.read.top <= tile.write.top
        assert tile.read.left <= tile.write.left
        assert tile.write.bottom <= tile.read.bottom
        assert tile.write.right <= tile.read.right


@quick
@given(plans())
def test_each_pixel_comes_from_its_most_central_tile(plan: tuple[int, int, int, int, int]) -> None:
    height, width, *_ = plan
    tiles = plan_tiles(*plan)
    central = np.empty((len(tiles), height, width))
    written = np.empty((height, width), int)
    for index, tile in enumerate(tiles):
        rows = [distance(y, tile.read.top, tile.read.bottom, height) for y in range(height)]
        columns = [distance(x, tile.read.left, tile.read.right, width) for x in range(width)]
        central[index] = np.minimum(np.asarray(rows)[:, None], np.asarray(columns)[None, :])
        written[tile.write.slices] = index
    taken = np.take_along_axis(central, written[None], axis=0)[0]
    np.testing.assert_array_equal(taken, central.max(axis=0))


@quick
@given(st.integers(1, 200), st.integers(1, 60), st.data())
def test_ties_go_to_the_earlier_tile(length: int, side: int, data: st.DataObject) -> None:
    halo = data.draw(st.integers(0, (side - 1) // 2))
    tiles = plan_tiles(1, length, 1 + 2 * halo, side, halo)
    for pixel in range(length):
        best = [distance(pixel, tile.read.left, tile.read.right, length) for tile in tiles]
        assert tiles[int(np.argmax(best))].write.left <= pixel < tiles[int(np.argmax(best))].write.right


@quick
@given(plans(largest=120))
def test_inner_edges_are_at_least_a_halo_away(plan: tuple[int, int, int, int, int]) -> None:
    height, width, _, _, halo = plan
    for tile in plan_tiles(*plan):
        assert tile.write.top == 0 or tile.write.top - tile.read.top >= halo
        assert tile.write.left == 0 or tile.write.left - tile.read.left >= halo
        assert tile.write.bottom == height or tile.read.bottom - tile.write.bottom >= halo
        assert tile.write.right == width or tile.read.right - tile.write.right >= halo


@quick
@given(plans(largest=120))
def test_tiles_come_in_whole_rows(plan: tuple[int, int, int, int, int]) -> None:
    height, width, *_ = plan
    bottom, right = 0, width
    for tile in iter_tiles(*plan):
        if right == width:
            top, bottom, right = bottom, tile.write.bottom, 0
        assert (tile.write.top, tile.write.bottom, tile.write.left) == (top, bottom, right)
        right = tile.write.right
    assert (bottom, right) == (height, width)


def test_one_pixel_is_one_tile() -> None:
    assert plan_tiles(1, 1, 512, 512, 64) == [Tile(Window(0, 0, 1, 1), Window(0, 0, 1, 1))]


def test_no_more_tiles_than_the_halo_asks_for() -> None:
    # 512 + 2 * 384 = 1280: three tiles with a halo of 64 cover it exactly.
    assert len(plan_tiles(512, 1280, 512, 512, 64)) == 3
    assert len(plan_tiles(512, 1281, 512, 512, 64)) == 4


@pytest.mark.parametrize("halo", [-1, 16, 20])
def test_a_halo_that_leaves_nothing_is_refused(halo: int) -> None:
    with pytest.raises(EmraError) as caught:
        plan_tiles(100, 100, 32, 32, halo)
    assert caught.value.code == "halo"


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(EmraError) as caught:
        plan_tiles(0, 100, 32, 32, 4)
    assert caught.value.code == "image-size"


def test_a_window_knows_its_place_in_another() -> None:
    assert Window(5, 7, 2, 3).within(Window(4, 4, 10, 10)) == (slice(1, 3), slice(3, 6))
    with pytest.raises(EmraError):
        Window(0, 0, 0, 1)


@quick
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_default_halo_always_fits(height: int, width: int) -> None:
    assert plan_tiles(height, width, height, width, default_halo(height, width))
