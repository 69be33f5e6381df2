"""Whole scenes from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from training.data.scenes.block import CityBlock
from training.data.scenes.canvas import Axes, Canvas
from training.data.scenes.districts import DISTRICTS
from training.data.scenes.roads import asphalt, highway, roundabout, street, track
from training.data.scenes.sensor import expose, shade
from training.data.scenes.terrain import build_terrain

DUBAI_CLASSES = ClassSet(
    names=("building", "land", "road", "vegetation", "water"),
    palette=(
        (0x3C, 0x10, 0x98),
        (0x84, 0x29, 0xF6),
        (0x6E, 0xC1, 0xE4),
        (0xFE, 0xDD, 0x3A),
        (0xE2, 0xA9, 0x29),
    ),
)
"""Classes and colours of the Dubai tiles, in label order; land is unpaved."""

DEFAULT_GSD = 1.5
"""Metres per pixel at which villas and roads are as large as in the Dubai tiles."""

MIN_SIDE = 16
MAX_SIDE = 4096


@dataclass(frozen=True, eq=False)
class Scene:
    """A generated aerial picture and its truth.

    Attributes:
        image: uint8 H x W x 3, red, green, blue.
        labels: uint8 H x W, 0 to 4 as in ``DUBAI_CLASSES``; every pixel has a label.
        gsd: Metres per pixel.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    gsd: float


@dataclass(frozen=True)
class _Style:
    """Mixture of one kind of scene: shares of ground cover, probabilities of blocks and of a highway."""

    coast: tuple[float, float]
    lakes: tuple[float, float]
    green: tuple[float, float]
    highway: float
    tracks: float
    blocks: tuple[float, ...]


# Chances of blocks in the order of DISTRICTS: villas, rings, towers, apartments, warehouses, park, empty.
_STYLES: dict[str, tuple[float, _Style]] = {
    "suburb": (0.28, _Style((0, 0), (0, 0.06), (0, 0.06), 0.5, 1, (0.5, 0.08, 0.03, 0.1, 0.04, 0.1, 0.15))),
    "golf": (0.18, _Style((0, 0), (0.06, 0.2), (0.5, 0.85), 0.3, 0, (0.28, 0.12, 0.02, 0.06, 0.02, 0.22, 0.28))),
    "desert": (0.16, _Style((0, 0), (0, 0.1), (0, 0.05), 0.35, 8, (0.06, 0.01, 0.01, 0.02, 0.07, 0.02, 0.81))),
    "coast": (0.18, _Style((0.3, 0.75), (0, 0), (0, 0.12), 0.2, 4, (0.14, 0.04, 0.06, 0.08, 0.16, 0.08, 0.44))),
    "centre": (0.12, _Style((0, 0), (0, 0.16), (0, 0.08), 0.6, 1, (0.12, 0.04, 0.36, 0.2, 0.04, 0.08, 0.16))),
    "industry": (0.08, _Style((0, 0), (0, 0.04), (0, 0.02), 0.4, 4, (0.04, 0.0, 0.02, 0.12, 0.56, 0.02, 0.24))),
}


def generate(seed: int, height: int, width: int, gsd: float = DEFAULT_GSD) -> Scene:
    """Make the scene of a seed: the same labels and picture each time.

    A different size or ground sample distance gives a different scene, not a part of the same one.

    Args:
        seed: 0 or more.
        height: Rows, 16 to 4096.
        width: Columns, 16 to 4096.
        gsd: Metres per pixel, 0.2 to 5.

    Raises:
        EmraError: ``scene-argument`` when an argument is out of its range.
    """
    _check(seed, height, width, gsd)
    rng = np.random.Generator(np.random.PCG64(seed))
    chances = np.array([chance for chance, _ in _STYLES.values()])
    style = list(_STYLES.values())[int(rng.choice(len(chances), p=chances / chances.sum()))][1]
    terrain = build_terrain(
        rng,
        height,
        width,
        gsd,
        rng.uniform(*style.coast),
        rng.uniform(*style.lakes),
        rng.uniform(*style.green),
    )
    azimuth, slope = rng.uniform(0, 2 * pi), rng.uniform(0.4, 1.1)
    sun = (cos(azimuth) * slope / gsd, sin(azimuth) * slope / gsd)
    canvas = Canvas(terrain.colour, terrain.labels, gsd, sun)
    axes = Axes(rng, height, width, gsd, rng.uniform(0, 60))
    for _ in range(int(rng.poisson(style.tracks * height * width * gsd * gsd / 1.2e6))):
        track(canvas, rng, rng.uniform(0, width), rng.uniform(0, height))
    _build_town(canvas, axes, rng, style)
    if rng.uniform() < style.highway:
        highway(canvas, rng, axes)
    colour = np.asarray(canvas.colour_image)
    labels = np.array(canvas.label_image)
    shaded = shade(rng, colour, np.asarray(canvas.shadow_image), gsd)
    return Scene(expose(rng, shaded, gsd), labels, gsd)


def _check(seed: int, height: int, width: int, gsd: float) -> None:
    if seed < 0:
        raise EmraError("scene-argument", f"seed {seed}, expected 0 or more", "Give another seed")
    for side in (height, width):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise EmraError(
                "scene-argument",
                f"a side of {side} pixels, expected {MIN_SIDE} to {MAX_SIDE}",
                "Give another height and width",
            )
    if not 0.2 <= gsd <= 5:
        raise EmraError("scene-argument", f"{gsd} metres per pixel, expected 0.2 to 5", "Give another distance")


def _cuts(rng: np.random.Generator, reach: float) -> list[float]:
    """Positions of the arterial roads along one axis, metres."""
    cuts = [-reach - rng.uniform(0, 300)]
    while cuts[-1] < reach:
        cuts.append(cuts[-1] + rng.uniform(170, 420))
    return cuts


def _build_town(canvas: Canvas, axes: Axes, rng: np.random.Generator, style: _Style) -> None:
    """Fill the blocks, then draw the arterial roads between them."""
    cuts_u, cuts_v = _cuts(rng, axes.reach), _cuts(rng, axes.reach)
    widths = np.array([12.0, 16.0, 24.0, 32.0])
    widths_u = rng.choice(widths, len(cuts_u), p=[0.35, 0.3, 0.25, 0.1])
    widths_v = rng.choice(widths, len(cuts_v), p=[0.35, 0.3, 0.25, 0.1])
    kinds = list(DISTRICTS)
    built = np.zeros((len(cuts_u) + 1, len(cuts_v) + 1), bool)
    chances = np.array(style.blocks) / sum(style.blocks)
    blocks: list[tuple[str, CityBlock]] = []
    for i in range(len(cuts_u) - 1):
        for j in range(len(cuts_v) - 1):
            kind = kinds[int(rng.choice(len(kinds), p=chances))]
            verge = rng.uniform(3, 16)
            box = (
                cuts_u[i] + widths_u[i] / 2 + verge,
                cuts_v[j] + widths_v[j] / 2 + verge,
                cuts_u[i + 1] - widths_u[i + 1] / 2 - verge,
                cuts_v[j + 1] - widths_v[j + 1] / 2 - verge,
            )
            # Own randomness: what is out of sight can be left out without changing the rest.
            block = CityBlock(canvas, axes, np.random.Generator(np.random.PCG64(int(rng.integers(2**62)))), box)
            if not canvas.visible(block.outline(block.u0, block.v0, block.u1, block.v1), 60):
                continue
            if kind != "empty" and _floods(canvas, block):
                kind = "empty"
            built[i + 1, j + 1] = kind != "empty"
            blocks.append((kind, block))
    # Tracks wander out of the empty blocks: what is built comes on top of them.
    for kind, block in sorted(blocks, key=lambda item: item[0] != "empty"):
        DISTRICTS[kind](block)
    _arterials(canvas, axes, rng, cuts_u, cuts_v, widths_u, widths_v, built)


def _floods(canvas: Canvas, block: CityBlock) -> bool:
    u, v = np.meshgrid(np.linspace(block.u0, block.u1, 16), np.linspace(block.v0, block.v1, 16))
    points = block.place(np.stack([u.ravel(), v.ravel()], axis=1))
    inside = (points >= 0).all(axis=1) & (points[:, 0] < canvas.width) & (points[:, 1] < canvas.height)
    return bool(inside.any()) and canvas.on_water(points[inside])


def _arterials(
    canvas: Canvas,
    axes: Axes,
    rng: np.random.Generator,
    cuts_u: list[float],
    cuts_v: list[float],
    widths_u: NDArray[np.float64],
    widths_v: NDArray[np.float64],
    built: NDArray[np.bool_],
) -> None:
    """Roads along the blocks; beside two empty blocks only some are there."""
    colour = asphalt(rng)
    bare = rng.uniform(0.05, 0.5)
    for axis, (cuts, across, widths) in enumerate(((cuts_u, cuts_v, widths_u), (cuts_v, cuts_u, widths_v))):
        for i, cut in enumerate(cuts):
            for j in range(len(across) - 1):
                sides = built[i : i + 2, j + 1] if axis == 0 else built[j + 1, i : i + 2]
                if not sides.any() and rng.uniform() > bare:
                    continue
                along = np.linspace(across[j], across[j + 1], 24)
                fixed = np.full(24, cut)
                line = np.stack([fixed, along] if axis == 0 else [along, fixed], axis=1)
                points = axes.to_pixels(line)
                if canvas.visible(points, 40 / canvas.gsd):
                    street(canvas, rng, points, float(widths[i]), colour)
    for i, u in enumerate(cuts_u):
        for j, v in enumerate(cuts_v):
            if built[i : i + 2, j : j + 2].any() and rng.uniform() < 0.35:
                x, y = axes.to_pixels(np.array([[u, v]]))[0]
                roundabout(canvas, rng, float(x), float(y), rng.uniform(18, 42), colour)
