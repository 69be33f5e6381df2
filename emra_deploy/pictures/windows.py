"""Windows of an image, and the plan that covers an image with overlapping tiles.

A transformer sees less context near the edge of its input, so neighbouring tiles overlap, and each output pixel
is taken from the tile in which it lies furthest from an edge. The border of the image is no such edge: there is
no context beyond it to miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from emra_deploy.errors import EmraError

HALO_DIVISOR = 8
"""The default halo is the side of a tile divided by this."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: rows ``top`` to ``bottom - 1``, columns ``left`` to ``right - 1``."""

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.top < 0 or self.left < 0 or self.height < 1 or self.width < 1:
            raise EmraError(
                "window",
                f"window {(self.top, self.left, self.height, self.width)} is empty or starts before the image",
                "Give top and left of at least 0, height and width of at least 1",
            )

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.left + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an array of H×W or H×W×3."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Index of this window in an array that holds ``outer``."""
        top, left = self.top - outer.top, self.left - outer.left
        return slice(top, top + self.height), slice(left, left + self.width)


@dataclass(frozen=True)
class Tile:
    """What one run of the model reads, and the part of its answer that is kept."""

    read: Window
    write: Window


def default_halo(tile_height: int, tile_width: int) -> int:
    """The halo used when none is asked for, in pixels; small enough for both sides."""
    return min(tile_height, tile_width) // HALO_DIVISOR


def iter_tiles(height: int, width: int, tile_height: int, tile_width: int, halo: int) -> Iterator[Tile]:
    """Cover an image with overlapping tiles, row by row; see `plan_tiles`."""
    # Centrality in two dimensions is the smaller of that in each, so the best tile of each axis is the best tile.
    rows = _cover(height, tile_height, halo)
    columns = _cover(width, tile_width, halo)
    for read_top, read_bottom, top, bottom in rows:
        for read_left, read_right, left, right in columns:
            yield Tile(
                Window(read_top, read_left, read_bottom - read_top, read_right - read_left),
                Window(top, left, bottom - top, right - left),
            )


def count_tiles(height: int, width: int, tile_height: int, tile_width: int, halo: int) -> int:
    """How many tiles `iter_tiles` gives."""
    return len(_cover(height, tile_height, halo)) * len(_cover(width, tile_width, halo))


def plan_tiles(height: int, width: int, tile_height: int, tile_width: int, halo: int) -> list[Tile]:
    """Cover an image with overlapping tiles.

    Read windows lie inside the image; they have the size of a tile, or of the image where that is smaller.
    Write windows partition the image. A pixel is written from the tile where its distance to the tile's edge is
    largest, image borders not counting as edges; ties go to the earlier tile. Tiles come in row-major order, and
    those of one row write the same image rows.

    Args:
        height: Of the image, in pixels, at least 1.
        width: Of the image, in pixels, at least 1.
        tile_height: Of the model's input, in pixels.
        tile_width: Of the model's input, in pixels.
        halo: Neighbouring tiles overlap by at least twice this many pixels; less than half a tile.

    Raises:
        EmraError: ``image-size`` or ``halo`` for values outside those ranges.
    """
    return list(iter_tiles(height, width, tile_height, tile_width, halo))


def _cover(length: int, tile: int, halo: int) -> list[tuple[int, int, int, int]]:
    """One axis: (read start, read stop, write start, write stop) of each tile."""
    if length < 1 or tile < 1:
        raise EmraError(
            "image-size", f"image side {length} or tile side {tile} is below 1", "Give an image with pixels in it"
        )
    if not 0 <= 2 * halo < tile:
        raise EmraError(
            "halo", f"halo {halo} does not fit a tile of {tile} pixels", f"Give a halo of 0 to {(tile - 1) // 2}"
        )
    if length <= tile:
        return [(0, length, 0, length)]
    count = -(-(length - tile) // (tile - 2 * halo)) + 1
    # Spread evenly: the overlap that the last tile would have to itself is shared by all.
    starts = [index * (length - tile) // (count - 1) for index in range(count)]
    # The last pixel that is at least as far from the right edge of a tile as from the left edge of the next.
    cuts = [(start + tile - 1 + following) // 2 + 1 for start, following in pairwise(starts)]
    return [
        (start, start + tile, first, last)
        for start, first, last in zip(starts, [0, *cuts], [*cuts, length], strict=True)
    ]
