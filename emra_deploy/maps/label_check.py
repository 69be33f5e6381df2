"""Read-back check of a finished label raster: the file holds what was written.

GDAL loses some errors of the disk, so a file is verified before it gets its name.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from emra_deploy.pictures.raster import open_dataset


def facts(dataset: Any) -> dict[str, Any]:
    """Properties that a copy of a label raster must share with it."""
    tags = {name: value for name, value in dataset.tags().items() if name.startswith(("EMRA_", "CLASS_", "AREA_"))}
    # The default of files without this tag.
    tags.setdefault("AREA_OR_POINT", "Area")
    return {
        "size": (dataset.height, dataset.width, dataset.count, dataset.dtypes),
        "crs": dataset.crs,
        "transform": dataset.transform,
        "gcps": len(dataset.gcps[0]),
        "nodata": dataset.nodata,
        "palette": dataset.colormap(1),
        "tags": tags,
    }


def check_content(rasterio: Any, path: Path, sums: list[list[int]], block: int, expected: dict[str, Any]) -> None:
    """Compare every block, of the overviews too, and all facts with what was written.

    Args:
        rasterio: The module.
        path: The finished raster.
        sums: As `LabelLevels` has them.
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
            raise OSError("it is not a cloud-optimised GeoTIFF")
        _check_level(rasterio, written, sums[0], block, "")
        if len(written.overviews(1)) != len(sums) - 1:
            raise OSError(f"it has {len(written.overviews(1))} overviews, expected {len(sums) - 1}")
    for level, wanted in enumerate(sums[1:]):
        with open_dataset(rasterio, path, overview_level=level) as overview:
            _check_level(rasterio, overview, wanted, block, f" of overview {level + 1}")


def _check_level(rasterio: Any, dataset: Any, sums: list[int], block: int, name: str) -> None:
    wanted = iter(sums)
    for window, values in _blocks(rasterio, dataset, block):
        if zlib.crc32(values.data) != next(wanted, None):
            place = f"block {window.col_off // block}, {window.row_off // block}{name}"
            raise OSError(f"{place} differs from what was written")


def _blocks(rasterio: Any, dataset: Any, block: int) -> Any:
    for top in range(0, dataset.height, block):
        for left in range(0, dataset.width, block):
            size = min(block, dataset.width - left), min(block, dataset.height - top)
            window = rasterio.windows.Window(left, top, *size)
            yield window, np.ascontiguousarray(dataset.read(1, window=window))
