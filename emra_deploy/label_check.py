"""Reading a finished label raster back: what is in the file is what was written.

GDAL loses some errors of the disk, and a rename must not make their result the map.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.raster import open_dataset


def block_sums(rows: NDArray[np.uint8], block: int) -> list[int]:
    """The CRC-32 of each block of a row of blocks, from the left: h x W uint8."""
    return [
        zlib.crc32(np.ascontiguousarray(rows[:, left : left + block]).data) for left in range(0, rows.shape[1], block)
    ]


def facts(dataset: Any) -> dict[str, Any]:
    """What a copy of a label raster must have in common with it."""
    tags = {name: value for name, value in dataset.tags().items() if name.startswith(("EMRA_", "CLASS_", "AREA_"))}
    return {
        "size": (dataset.height, dataset.width, dataset.count, dataset.dtypes),
        "crs": dataset.crs,
        "transform": dataset.transform,
        "gcps": len(dataset.gcps[0]),
        "nodata": dataset.nodata,
        "palette": dataset.colormap(1),
        "tags": tags,
    }


def check_content(rasterio: Any, path: Path, sums: list[int], block: int, expected: dict[str, Any]) -> None:
    """Compare every block and all facts with what was written, and decode the overviews.

    Args:
        rasterio: The module.
        path: The finished raster.
        sums: As `block_sums` gave them, from the top.
        block: Side of the blocks in pixels.
        expected: As `facts` gave them.

    Raises:
        OSError: They differ.
    """
    with open_dataset(rasterio, path) as written:
        found = facts(written)
        unlike = sorted(name for name, value in expected.items() if found[name] != value)
        if unlike:
            raise OSError(f"{', '.join(unlike)} did not come back as written")
        if written.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
            raise OSError("it is no cloud-optimised GeoTIFF")
        wanted = iter(sums)
        for window, values in _blocks(rasterio, written, block):
            if zlib.crc32(values.data) != next(wanted):
                raise OSError(f"block {window.col_off // block}, {window.row_off // block} is not as it was written")
        levels = len(written.overviews(1))
    for level in range(levels):
        with open_dataset(rasterio, path, overview_level=level) as overview:
            for _ in _blocks(rasterio, overview, block):
                continue


def _blocks(rasterio: Any, dataset: Any, block: int) -> Any:
    for top in range(0, dataset.height, block):
        for left in range(0, dataset.width, block):
            size = min(block, dataset.width - left), min(block, dataset.height - top)
            window = rasterio.windows.Window(left, top, *size)
            yield window, np.ascontiguousarray(dataset.read(1, window=window))
