"""Quarters of villas in rings, as on the artificial islands and in garden towns."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from training.data.scenes.block import ROOFS, CityBlock
from training.data.scenes.canvas import BUILDING, LAND, VEGETATION, Colour, Points, jitter
from training.data.scenes.roads import street


def rings(block: CityBlock) -> None:
    """Rings of villas side by side, as many as fit, in lawns or paved ground."""
    rng = block.rng
    green = rng.uniform() < 0.6
    block.ground(jitter(rng, (84, 92, 74) if green else (154, 150, 148), 14), VEGETATION if green else LAND)
    asphalt: Colour = jitter(rng, (100, 90, 86), 16)
    roofs = ROOFS[int(rng.integers(len(ROOFS)))]
    wide, high = block.u1 - block.u0, block.v1 - block.v0
    diameter = min(rng.uniform(110, 180), wide, high)
    columns, rows = max(1, int(wide / diameter)), max(1, int(high / diameter))
    middle = (rows // 2 + 0.5) * high / rows
    street(block.canvas, rng, block.line(block.u0, block.v0 + middle, block.u1, block.v0 + middle), 8, asphalt)
    for i in range(columns):
        for j in range(rows):
            u, v = block.u0 + (i + 0.5) * wide / columns, block.v0 + (j + 0.5) * high / rows
            if block.canvas.visible(block.outline(u - 90, v - 90, u + 90, v + 90)):
                _ring(block, u, v, diameter / 2 - 5, roofs, asphalt, green)
    for _ in range(int(rng.uniform(0, 0.002) * wide * high) if green else 6):
        u, v = rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)
        block.tree(u, v, rng.uniform(1.2, 3.2))


def _arc(block: CityBlock, u: float, v: float, radius: float, start: float, end: float) -> Points:
    angles = np.linspace(start, end, max(6, int(radius * (end - start) / 8)))
    return block.place(np.stack([u + radius * np.cos(angles), v + radius * np.sin(angles)], axis=1))


def _ring(
    block: CityBlock, u: float, v: float, radius: float, roofs: tuple[Colour, ...], asphalt: Colour, green: bool
) -> None:
    """Villas around a ring road, with a gap through which a street leaves."""
    rng, canvas = block.rng, block.canvas
    depth = min(rng.uniform(20, 28), radius * 0.5)
    gap = rng.uniform(0, 2 * pi)
    opening = min(1.2, 16 / radius)
    start, end = gap + opening, gap + 2 * pi - opening
    outer = _arc(block, u, v, radius, start, end)
    inner = _arc(block, u, v, radius - depth, start, end)
    strip = np.concatenate([outer, inner[::-1]])
    if canvas.on_water(strip):
        return
    canvas.polygon(strip, jitter(rng, (122, 118, 112), 24), BUILDING)
    count = max(3, int((end - start) * (radius - depth / 2) / rng.uniform(15, 22)))
    each = (end - start) / count
    for k in range(count):
        angle = start + (k + 0.5) * each
        half = each * rng.uniform(0.3, 0.42)
        low, high = radius - depth * rng.uniform(0.85, 0.95), radius - depth * rng.uniform(0.25, 0.42)
        colour = jitter(rng, roofs[int(rng.integers(len(roofs)))], 18)
        _roof(block, u, v, (low, high), (angle - half, angle + half), 7, colour)
        core = (low + 0.2 * (high - low), low + 0.6 * (high - low))
        _roof(block, u, v, core, (angle - half * 0.6, angle + half * 0.1), 2.5, jitter(rng, colour, 40))
        for _ in range(int(rng.poisson(1.2))):
            far = rng.uniform(high, radius)
            turn = angle + rng.uniform(-0.5, 0.5) * each
            block.tree(u + far * cos(turn), v + far * sin(turn), rng.uniform(1.2, 2.6))
    lane = max(radius - depth - 6, 4.0)
    street(canvas, rng, _arc(block, u, v, lane, 0, 2 * pi), 8, asphalt)
    leave = np.linspace(lane, radius + 14, 8)
    way = np.stack([u + leave * cos(gap), v + leave * sin(gap)], axis=1)
    street(canvas, rng, block.place(way), 8, asphalt)
    if lane > 14:
        heart = _arc(block, u, v, lane - 6, 0, 2 * pi)
        if green:
            canvas.polygon(heart, jitter(rng, (84, 94, 72), 12), VEGETATION)
        else:
            canvas.polygon(heart, jitter(rng, (164, 160, 156), 18), LAND)


def _roof(
    block: CityBlock,
    u: float,
    v: float,
    radii: tuple[float, float],
    angles: tuple[float, float],
    height: float,
    colour: Colour,
) -> None:
    corners = [(radii[0], angles[0]), (radii[0], angles[1]), (radii[1], angles[1]), (radii[1], angles[0])]
    points = block.place(np.array([[u + r * cos(a), v + r * sin(a)] for r, a in corners]))
    block.canvas.cast(points, height)
    block.canvas.clear_shadow(points)
    block.canvas.polygon(points, colour, None)
