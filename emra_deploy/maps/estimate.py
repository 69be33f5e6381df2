"""Tiles, memory and time of a map, estimated before hours are spent on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from emra_deploy.host.machine import peak_memory
from emra_deploy.host.slow_steps import step
from emra_deploy.pictures.windows import iter_tiles

if TYPE_CHECKING:
    from emra_deploy.pictures.sources import ImageSource
    from emra_deploy.segmenting.segmenter import Segmenter

TRIALS = 5
"""Batches that are timed; the estimate uses their median."""


@dataclass(frozen=True)
class MapEstimate:
    """What a map will take.

    Attributes:
        height: Rows of the map.
        width: Columns of the map.
        tile: Height and width of a tile, pixels.
        halo: Half of the least overlap of tiles, pixels.
        blend: Whether tiles are averaged where they overlap.
        tiles: Tiles that cover the picture; those without any data are not run, so fewer may be.
        batch: Tiles run at once.
        seconds_per_tile: Median of `TRIALS` batches of the picture's middle, on this machine, now.
        seconds: Of running the model on all tiles. Reading and writing happen meanwhile, for the most part.
        memory_bytes: Peak of this process so far, with the model and a batch, and what the rows of this map add; None
            where the system does not report it.
        output_bytes: The map before compression, which is the most that it can take on the disk beside its overviews.
        model: Name and precision.
        backend: Facts about what runs the model.
        warnings: What the user should know before the work.
    """

    height: int
    width: int
    tile: tuple[int, int]
    halo: int
    blend: bool
    tiles: int
    batch: int
    seconds_per_tile: float
    seconds: float
    memory_bytes: int | None
    output_bytes: int
    model: dict[str, str]
    backend: dict[str, str]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.__dict__, "tile": list(self.tile), "warnings": list(self.warnings), "dry_run": True}


def estimate(source: ImageSource, segmenter: Segmenter) -> MapEstimate:
    """Count the tiles of a picture and time a few of them.

    Args:
        source: The picture as the model sees it, resampled where necessary.
        segmenter: The model.
    """
    _, height, width = segmenter.backend.input_shape
    tiles = sum(1 for _ in iter_tiles(source.height, source.width, height, width, segmenter.halo))
    batch = min(segmenter.batch_size, tiles)
    with step(f"timing {TRIALS} runs of {batch} tile{'s' if batch > 1 else ''}"):
        seconds = _seconds_per_tile(source, segmenter, batch)
    peak = peak_memory()
    return MapEstimate(
        height=source.height,
        width=source.width,
        tile=(height, width),
        halo=segmenter.halo,
        blend=segmenter.blend,
        tiles=tiles,
        batch=batch,
        seconds_per_tile=seconds,
        seconds=seconds * tiles,
        memory_bytes=None if peak is None else peak + _row_bytes(source.width, segmenter),
        output_bytes=source.height * source.width,
        model={"name": segmenter.manifest.name, "precision": segmenter.manifest.precision},
        backend=segmenter.backend.describe(),
    )


def _seconds_per_tile(source: ImageSource, segmenter: Segmenter, batch: int) -> float:
    """Time of the tile in the picture's middle; the self-test has warmed the model up."""
    from emra_deploy.pictures.windows import Window

    _, height, width = segmenter.backend.input_shape
    rows, columns = min(height, source.height), min(width, source.width)
    middle = Window((source.height - rows) // 2, (source.width - columns) // 2, rows, columns)
    picture = np.pad(source.read(middle), ((0, height - rows), (0, width - columns), (0, 0)), mode="edge")
    tiles = np.repeat(picture[None], batch, axis=0)
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        segmenter.backend.run(tiles)
        times.append((time.perf_counter() - start) / batch)
    return median(times)


def _row_bytes(width: int, segmenter: Segmenter) -> int:
    """Memory for rows while a map is made, in addition to that of one batch."""
    from emra_deploy.maps.label_levels import BLOCK

    _, height, _ = segmenter.backend.input_shape
    # One row of tiles as it is put together, one of blocks as it fills, and a third of that for the overviews.
    held = width * (height + BLOCK * 4 // 3)
    if segmenter.blend:
        held += width * height * (4 * (len(segmenter.classes) + 1) + 1)
    return held
