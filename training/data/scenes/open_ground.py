"""Blocks without a town: parks and empty plots."""

from __future__ import annotations

import numpy as np

from training.data.scenes.block import CityBlock
from training.data.scenes.canvas import BUILDING, LAND, ROAD, VEGETATION, WATER, Colour, Points, jitter
from training.data.scenes.roads import track


def park(block: CityBlock) -> None:
    """Lawns with paths, trees, a pond and bare patches."""
    rng, canvas = block.rng, block.canvas
    block.ground(jitter(rng, (84, 94, 70), 12), VEGETATION)
    middle_u, middle_v = (block.u0 + block.u1) / 2, (block.v0 + block.v1) / 2
    size_u, size_v = (block.u1 - block.u0) / 2, (block.v1 - block.v0) / 2
    for _ in range(int(rng.integers(3, 12))):
        colour = jitter(rng, (96, 106, 76), 14)
        _blob(
            block,
            rng.uniform(block.u0, block.u1),
            rng.uniform(block.v0, block.v1),
            rng.uniform(12, 45),
            colour,
            VEGETATION,
        )
    for _ in range(int(rng.integers(0, 6))):
        colour = jitter(rng, (196, 192, 188), 20)
        _blob(
            block,
            rng.uniform(block.u0, block.u1),
            rng.uniform(block.v0, block.v1),
            rng.uniform(6, 20),
            colour,
            LAND,
        )
    if rng.uniform() < 0.6:
        size = rng.uniform(0.25, 0.6) * min(size_u, size_v)
        dark: Colour = (jitter(rng, (16, 26, 22), 10), jitter(rng, (22, 66, 48), 14))[int(rng.integers(2))]
        outline = _blob_outline(block, 0.0, 0.0, 1.0)
        middle = np.array([[middle_u, middle_v]])
        canvas.polygon(block.place(middle + outline * (size + 3)), jitter(rng, (120, 122, 104), 16), None)
        canvas.polygon(block.place(middle + outline * size), dark, WATER)
    path = jitter(rng, (170, 162, 156), 16)
    angles = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack([middle_u + 0.8 * size_u * np.cos(angles), middle_v + 0.8 * size_v * np.sin(angles)], axis=1)
    canvas.line(block.place(ring), 3.5, path, ROAD if rng.uniform() < 0.5 else LAND)
    for _ in range(min(600, int(rng.uniform(0.0005, 0.005) * 4 * size_u * size_v))):
        u, v = rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)
        x, y = block.place(np.array([[u, v]]))[0]
        radius = rng.uniform(1.5, 4.5)
        inside = 0 <= x < canvas.width and 0 <= y < canvas.height
        if inside and canvas.label_image.getpixel((int(x), int(y))) == VEGETATION:
            block.tree(u, v, radius, VEGETATION)


def _blob_outline(block: CityBlock, u: float, v: float, radius: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    lobes = sum(
        block.rng.uniform(0, 0.32) / (k - 1) * np.sin(k * angles + block.rng.uniform(0, 6.3)) for k in (2, 3, 4)
    )
    length = radius * (1 + lobes)
    return np.stack([u + length * np.cos(angles), v + length * np.sin(angles)], axis=1)


def _blob(block: CityBlock, u: float, v: float, radius: float, colour: Colour, label: int | None) -> None:
    block.canvas.polygon(block.place(_blob_outline(block, u, v, radius)), colour, label)


def empty(block: CityBlock) -> None:
    """Sand with tracks, heaps and now and then a building site."""
    rng, canvas = block.rng, block.canvas
    for _ in range(int(rng.poisson(1.2))):
        _graded(block)
    for _ in range(int(rng.poisson(1.6))):
        spot = np.array([[rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)]])
        x, y = block.place(spot)[0]
        track(canvas, rng, float(x), float(y))
    if rng.uniform() < 0.35:
        u, v = rng.uniform(block.u0, block.u1 - 60), rng.uniform(block.v0, block.v1 - 60)
        site = block.outline(u, v, u + 60, v + 60)
        if not canvas.on_water(site):
            canvas.polygon(site, jitter(rng, (186, 176, 168), 20), LAND)
            for _ in range(int(rng.integers(5, 30))):
                a, b = rng.uniform(u, u + 54), rng.uniform(v, v + 54)
                block.roof(
                    a,
                    b,
                    a + rng.uniform(2, 7),
                    b + rng.uniform(2, 5),
                    3,
                    jitter(rng, (160, 152, 150), 60),
                    None,
                )
    for _ in range(int(rng.poisson(1.0))):
        u, v = rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)
        _house(block, u, v, *rng.uniform(16, 60, 2))
    for _ in range(int(rng.poisson(3))):
        block.tree(rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1), rng.uniform(0.8, 1.8))


def _graded(block: CityBlock) -> None:
    """A plot of levelled or quarried ground: a patch of another tone with a bank around it."""
    rng, canvas = block.rng, block.canvas
    u, v = rng.uniform(block.u0, block.u1 - 30), rng.uniform(block.v0, block.v1 - 30)
    outline = block.outline(u, v, u + rng.uniform(30, 160), v + rng.uniform(30, 120))
    if not canvas.visible(outline) or not canvas.on(outline, LAND):
        return
    level = int(rng.integers(140, 226))
    canvas.tint(outline, jitter(rng, (level, level - 2, level - 3), 4), rng.uniform(0.3, 0.8))
    bank = int(rng.integers(170, 245))
    if rng.uniform() < 0.5:
        closed = np.concatenate([outline, outline[:1]])
        canvas.line(closed, rng.uniform(1, 4), (bank, bank - 2, bank - 2), None)


def _house(block: CityBlock, u: float, v: float, wide: float, deep: float) -> None:
    """A single building in a yard, its roof lighter or darker than the ground, with plant on it."""
    rng = block.rng
    yard = block.outline(u - 8, v - 8, u + wide + 8, v + deep + 8)
    if not block.canvas.visible(yard) or block.canvas.on_water(yard):
        return
    if not block.canvas.on(yard, LAND):
        block.canvas.polygon(yard, jitter(rng, (150, 144, 142), 24), LAND)
    elif rng.uniform() < 0.6:
        block.canvas.tint(yard, jitter(rng, (150, 144, 142), 24), 0.7)
    level = (246, 112, 150)[int(rng.integers(3))]
    colour = jitter(rng, (level, level - 3, level - 6), 22)
    height = rng.uniform(4, 12)
    block.roof(u, v, u + wide, v + deep, height, colour, BUILDING)
    if rng.uniform() < 0.4 and wide > 24 and deep > 24:
        court = jitter(rng, (90, 84, 82), 30)
        block.canvas.polygon(block.outline(u + 8, v + 8, u + wide - 8, v + deep - 8), court, None)
    for _ in range(int(rng.integers(2, 8))):
        a, b = rng.uniform(u, u + wide - 6), rng.uniform(v, v + deep - 6)
        block.roof(a, b, a + rng.uniform(3, 6), b + rng.uniform(3, 6), 2.5, jitter(rng, colour, 50), None)
