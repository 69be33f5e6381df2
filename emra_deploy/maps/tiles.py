"""The number of tiles of a map, before its model is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.backends.opening import stated_manifest
from emra_deploy.pictures.sources import ImageSource
from emra_deploy.pictures.windows import count_tiles, default_halo
from emra_deploy.segmenting.blending import BLEND_DIVISOR


def estimate_tiles(source: ImageSource, model: str | os.PathLike[str], halo: int | None, blend: bool) -> int | None:
    """Number of tiles of a picture at its own scale; None for a model without a readable Manifest.

    Args:
        source: The picture.
        model: The model file.
        halo: Overlap in pixels, None for the usual one.
        blend: Whether tiles are averaged.
    """
    manifest = stated_manifest(Path(model))
    if manifest is None:
        return None
    height, width = manifest.tile
    usual = min(height, width) // BLEND_DIVISOR if blend else default_halo(height, width)
    overlap = usual if halo is None else halo
    if not 0 <= 2 * overlap < min(height, width):
        # The Segmenter refuses it.
        return None
    return count_tiles(source.height, source.width, height, width, overlap)
