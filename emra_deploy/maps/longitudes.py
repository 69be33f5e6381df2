"""Polygons within -180 to 180 degrees of longitude, cut at the antimeridian, as GeoJSON asks (RFC 7946)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emra_deploy.host.extras import need

Ring = NDArray[np.float64]
"""Corners of a closed ring, n×2: longitude and latitude; the last is the first again."""


def crosses_180(ring: Ring) -> bool:
    """Whether longitudes go beyond 180 degrees, or jump to the other side of it, as around a pole, too."""
    longitudes = ring[:, 0]
    return bool((np.abs(longitudes) > 180).any() or (np.abs(np.diff(longitudes)) > 180).any())


def load_shapely() -> Any:
    """The module that cuts polygons.

    Raises:
        EmraError: ``library-missing`` when it is missing.
    """
    need("vector", "shapely", purpose="cutting polygons at 180 degrees of longitude")
    import shapely

    return shapely


def cut_at_180(rings: Sequence[Ring]) -> list[tuple[Ring, ...]]:
    """A polygon, an outline and its holes, as one or more within -180 to 180 degrees."""
    shapely = load_shapely()
    whole = _within(shapely, rings[0])
    for hole in rings[1:]:
        whole = whole.difference(_within(shapely, hole))
    parts = [part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    return [tuple(np.asarray(ring.coords) for ring in (part.exterior, *part.interiors)) for part in parts]


def _within(shapely: Any, ring: Ring) -> Any:
    """What a ring encloses, shifted by whole turns to where it belongs."""
    longitudes = np.unwrap(ring[:, 0], period=360)
    latitudes = ring[:, 1]
    turn = longitudes[-1] - longitudes[0]
    if abs(turn) > 180:
        # It runs around a pole. Three turns, closed at the pole, have both their ends beyond the one that is kept.
        longitudes = np.concatenate([longitudes[:-1] - turn, longitudes[:-1], longitudes + turn])
        latitudes = np.concatenate([latitudes[:-1], latitudes[:-1], latitudes])
        pole = np.copysign(90, latitudes.mean())
        longitudes = np.concatenate([longitudes, [longitudes[-1], longitudes[0]]])
        latitudes = np.concatenate([latitudes, [pole, pole]])
        shape = shapely.make_valid(shapely.Polygon(np.stack([longitudes, latitudes], axis=1)))
        return shapely.intersection(shape, shapely.box(-180, -90, 180, 90))
    shape = shapely.make_valid(shapely.Polygon(np.stack([longitudes, latitudes], axis=1)))
    pieces = []
    for turns in range(int((np.min(longitudes) + 180) // 360), int((np.max(longitudes) + 180) // 360) + 1):
        piece = shapely.intersection(shape, shapely.box(360 * turns - 180, -90, 360 * turns + 180, 90))
        pieces.append(shapely.transform(piece, lambda points, shift=360 * turns: points - [shift, 0]))
    return shapely.union_all(pieces)
