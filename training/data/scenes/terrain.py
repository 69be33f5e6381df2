"""The ground before anything is built: sand, sea, lagoons, parks and mangroves."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from training.data.scenes.canvas import LAND, VEGETATION, WATER
from training.data.scenes.noise import FloatField, smooth_noise


@dataclass(frozen=True)
class Terrain:
    """Ground colours and labels.

    Attributes:
        colour: uint8 H x W x 3.
        labels: uint8 H x W, land, vegetation or water.
    """

    colour: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def _tinted(level: FloatField, colour: NDArray[np.float32]) -> FloatField:
    return level[..., None] * colour


def sand(rng: np.random.Generator, height: int, width: int, gsd: float) -> FloatField:
    """Bright ground: broad stains, dunes and a fine grain; float32 H x W x 3 of 0 to 255."""
    base = rng.uniform(158, 228)
    tint = np.array([1.0, rng.uniform(0.96, 1.0), rng.uniform(0.93, 1.07)], np.float32)
    stains = smooth_noise(rng, height, width, 260 / gsd, 7, 0.7)
    dunes = smooth_noise(rng, height, width, 50 / gsd, 4, 0.7, stretch=rng.uniform(1, 4))
    level = base + rng.uniform(6, 18) * stains + rng.uniform(4, 12) * dunes
    # Damp or crusted ground: patches with rather sharp, ragged edges.
    crust = smooth_noise(rng, height, width, 180 / gsd, 6, 0.62) - np.float32(rng.uniform(0.7, 1.7))
    level -= rng.uniform(20, 75) * np.clip(2.5 * crust, 0, 1) * (0.75 + 0.12 * dunes)
    grain = smooth_noise(rng, height, width, max(6 / gsd, 2.0), 2, 0.8)
    level += rng.uniform(2, 6) * grain
    warm = smooth_noise(rng, height, width, 400 / gsd, 2)
    picture = _tinted(level, tint)
    picture[..., 0] += 4 * warm
    picture[..., 2] -= 6 * warm
    return picture


def greenery(rng: np.random.Generator, height: int, width: int, gsd: float) -> FloatField:
    """Lawns and scrub: dark olive with tufts; float32 H x W x 3 of 0 to 255."""
    lawn = np.array([rng.uniform(66, 98), rng.uniform(74, 102), rng.uniform(54, 84)], np.float32)
    level = rng.uniform(62, 104)
    rough = np.array([level, level * rng.uniform(0.98, 1.06), level * rng.uniform(0.85, 1.18)], np.float32)
    crown = np.array([rng.uniform(28, 46), rng.uniform(34, 50), rng.uniform(28, 48)], np.float32)
    # Lawns are smooth with clear edges; between them lies rough ground with scrub and trees.
    wild = np.clip(0.5 + 2.2 * smooth_noise(rng, height, width, 90 / gsd, 3, 0.4), 0, 1)
    tufts = smooth_noise(rng, height, width, max(9 / gsd, 2.0), 3, 0.8)
    density = np.float32(rng.uniform(0.1, 0.9)) - np.float32(0.6) * smooth_noise(rng, height, width, 60 / gsd, 2)
    trees = np.clip(2.5 * (tufts - density), 0, 1) * wild
    picture: FloatField = lawn + (rough - lawn) * wild[..., None]
    picture += ((3 + 9 * wild) * tufts)[..., None]
    picture += (crown - picture) * trees[..., None]
    return picture


def water(rng: np.random.Generator, depth: FloatField, gsd: float) -> FloatField:
    """Water over a bed: bright and green at the shore, dark where it is deep.

    Args:
        rng: Source of randomness.
        depth: float32 H x W, 0 at the shore to 1 in the deep.
        gsd: Metres per pixel.

    Returns:
        float32 H x W x 3 of 0 to 255.
    """
    height, width = depth.shape
    kind = rng.uniform()
    if kind < 0.5:
        deep, shallow = (rng.uniform(8, 24), rng.uniform(11, 28), rng.uniform(9, 22)), (64, 92, 74)
    elif kind < 0.68:
        deep, shallow = (rng.uniform(12, 36), rng.uniform(36, 64), rng.uniform(26, 46)), (90, 118, 92)
    elif kind < 0.92:
        deep, shallow = (rng.uniform(34, 52), rng.uniform(40, 52), rng.uniform(20, 34)), (104, 108, 72)
    else:
        deep, shallow = (rng.uniform(14, 36), rng.uniform(52, 84), rng.uniform(70, 104)), (92, 158, 158)
    fade = (1 - np.clip(depth, 0, 1)) ** 2 * np.float32(rng.uniform(0.3, 1.0))
    low, high = np.array(deep, np.float32), np.array(shallow, np.float32)
    picture: FloatField = low + (high - low) * fade[..., None]
    ripples = smooth_noise(rng, height, width, max(5 / gsd, 2.0), 2, 0.7, stretch=2.0)
    picture += (rng.uniform(0.5, 2.5) * ripples)[..., None]
    picture += (rng.uniform(1, 5) * smooth_noise(rng, height, width, 200 / gsd, 3))[..., None]
    return picture


def build_terrain(
    rng: np.random.Generator, height: int, width: int, gsd: float, coast: float, lakes: float, green: float
) -> Terrain:
    """Ground with about the given shares of sea, lakes and greenery.

    Args:
        rng: Source of randomness.
        height: Rows.
        width: Columns.
        gsd: Metres per pixel.
        coast: Share of the sea, 0 for none.
        lakes: Share of ponds and lagoons, 0 for none.
        green: Share of greenery on the land, 0 for none.
    """
    land = sand(rng, height, width, gsd)
    labels = np.full((height, width), LAND, np.uint8)
    # The picture's own extent in units of 600 m, so that a coast looks the same at any size.
    rows = (np.arange(height, dtype=np.float32)[:, None] - height / 2) * np.float32(gsd / 600)
    columns = (np.arange(width, dtype=np.float32)[None, :] - width / 2) * np.float32(gsd / 600)

    if green > 0:
        field = smooth_noise(rng, height, width, 260 / gsd, 5, 0.55)
        cover = field > _threshold(field, green)
        land = np.where(cover[..., None], greenery(rng, height, width, gsd), land)
        labels[cover] = VEGETATION

    wet = np.full((height, width), -1.0, np.float32)
    if coast > 0:
        angle = rng.uniform(0, 2 * pi)
        line = columns * np.float32(cos(angle)) + rows * np.float32(sin(angle))
        line = line + np.float32(0.16) * smooth_noise(rng, height, width, 420 / gsd, 5, 0.5)
        wet = line - _threshold(line, coast)
        if rng.uniform() < 0.4:
            shore = smooth_noise(rng, height, width, 120 / gsd, 4, 0.6)
            mangrove = (wet > -0.22) & (wet < 0.02) & (shore > 0.2)
            land = np.where(mangrove[..., None], 0.85 * greenery(rng, height, width, gsd), land)
            labels[mangrove] = VEGETATION
    if lakes > 0:
        field = smooth_noise(rng, height, width, 330 / gsd, 3, 0.4)
        wet = np.maximum(wet, np.float32(0.35) * (field - _threshold(field, lakes)))
    flooded = wet > 0
    if coast > 0 or lakes > 0:
        beach = np.clip(1 - np.abs(wet + 0.012) / 0.03, 0, 1) * np.float32(rng.uniform(0, 0.5))
        land += beach[..., None] * (235 - land) * (labels == LAND)[..., None]
        sea = water(rng, np.clip(wet / np.float32(rng.uniform(0.06, 0.4)), 0, 1), gsd)
        land = np.where(flooded[..., None], sea, land)
        labels[flooded] = WATER
    return Terrain(np.clip(land, 0, 255).astype(np.uint8), labels)


def _threshold(field: FloatField, share: float) -> float:
    """The level above which about a share of the field lies, from a sparse sample."""
    sample = np.sort(field[:: max(1, field.shape[0] // 64), :: max(1, field.shape[1] // 64)], axis=None)
    return float(sample[min(sample.size - 1, int((1 - share) * sample.size))])
