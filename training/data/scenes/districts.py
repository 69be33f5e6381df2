"""Districts that fill the blocks between the arterial roads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.data.scenes.block import ROOFS, CityBlock
from training.data.scenes.canvas import BUILDING, LAND, ROAD, VEGETATION, Colour, jitter
from training.data.scenes.open_ground import empty, park
from training.data.scenes.rings import rings
from training.data.scenes.roads import CAR_COLOURS, street


def villas(block: CityBlock) -> None:
    """Rows of walled villas along streets; a row counts as building, gardens and courtyards included."""
    rng, canvas = block.rng, block.canvas
    green = rng.uniform() < 0.45
    if green:
        block.ground(jitter(rng, (86, 94, 74), 12), VEGETATION)
    else:
        block.ground(jitter(rng, (152, 148, 148), 22), LAND)
    asphalt: Colour = jitter(rng, (100, 90, 86), 16)
    roofs = ROOFS[int(rng.integers(len(ROOFS)))]
    yard: Colour = jitter(rng, (122, 118, 114), 26)
    depth, pitch, road = rng.uniform(22, 34), rng.uniform(15, 26), rng.uniform(8, 11)
    height = rng.uniform(6, 10)
    garden = rng.uniform(0.1, 0.7)
    alley = rng.uniform(3, 12)
    v = block.v0 + rng.uniform(2, 8)
    while v + road + depth < block.v1:
        ends = (block.u0 + rng.uniform(4, 10), block.u1 - rng.uniform(4, 10))
        for row in (v, v + depth + road):
            if row + depth > block.v1 + 2:
                continue
            _villa_row(block, ends, row, depth, pitch, height, roofs, yard, garden, outer=row == v)
        street(
            canvas,
            rng,
            block.line(ends[0] - 4, v + depth + road / 2, ends[1] + 4, v + depth + road / 2),
            road,
            asphalt,
        )
        v += 2 * depth + road + alley
        if green and alley > 6:
            for u in np.arange(block.u0 + 8, block.u1 - 8, rng.uniform(8, 20)):
                block.tree(float(u), v - alley / 2, rng.uniform(1.5, 3.0), VEGETATION)
    for edge in (block.u0, block.u1):
        street(canvas, rng, block.line(edge, block.v0, edge, block.v1), road, asphalt)


def _villa_row(
    block: CityBlock,
    ends: tuple[float, float],
    v: float,
    depth: float,
    pitch: float,
    height: float,
    roofs: tuple[Colour, ...],
    yard: Colour,
    garden: float,
    outer: bool,
) -> None:
    rng, canvas = block.rng, block.canvas
    u = ends[0] + rng.uniform(0, pitch)
    bare = 0.25 if rng.uniform() < 0.1 else 0.01
    while u + pitch <= ends[1]:
        plot = block.outline(u, v, u + pitch, v + depth)
        if rng.uniform() < bare:
            u += pitch
            continue
        if canvas.visible(plot, 20) and not canvas.on_water(plot):
            canvas.polygon(plot, jitter(rng, yard, 10), BUILDING)
            back = v + 1 if outer else v + depth * 0.62
            if rng.uniform() < garden:
                lawn = block.outline(u + 1, back, u + pitch - 1, back + depth * 0.36)
                canvas.polygon(lawn, jitter(rng, (80, 92, 68), 14), None)
            if rng.uniform() < 0.12:
                pool = block.outline(u + 3, back + 2, u + 3 + rng.uniform(4, 8), back + 2 + rng.uniform(3, 5))
                canvas.polygon(pool, jitter(rng, (74, 158, 176), 20), None)
            wall = jitter(rng, (190, 186, 182), 24)
            canvas.line(np.concatenate([plot, plot[:1]]), 0.5, wall, None)
            near = v + depth * 0.38 if outer else v + 2
            front = near + depth * rng.uniform(0.46, 0.56)
            colour = jitter(rng, roofs[int(rng.integers(len(roofs)))], 16)
            slack = pitch * rng.uniform(0.05, 0.3)
            left = u + 1 + rng.uniform(0, 1) * slack
            right = left + pitch - 2 - slack
            if rng.uniform() < 0.5:
                wing = jitter(rng, colour, 18)
                half = left + (right - left) * rng.uniform(0.4, 0.6)
                reach = near + depth * rng.uniform(0.1, 0.2) * (-1 if outer else 1)
                low, high = min(near, reach), max(front, reach + (front - near))
                block.roof(left, low, half, high, height * 0.8, wing, None)
            block.roof(left, near, right, front, height, colour, None)
            for _ in range(int(rng.integers(1, 4))):
                a, b = (
                    left + rng.uniform(0, 0.6) * (right - left),
                    near + rng.uniform(0, 0.6) * (front - near),
                )
                size = rng.uniform(3, 7)
                block.roof(a, b, min(a + size, right), min(b + size, front), 2.5, jitter(rng, colour, 34), None)
            for _ in range(int(rng.poisson(1.2 + 2 * garden))):
                block.tree(u + rng.uniform(0, pitch), back + rng.uniform(0, depth * 0.36), rng.uniform(1.2, 2.8))
        u += pitch


def towers(block: CityBlock) -> None:
    """High-rises on podiums with parking between them, and long shadows."""
    rng, canvas = block.rng, block.canvas
    block.ground(jitter(rng, (150, 146, 146), 24), LAND)
    asphalt: Colour = jitter(rng, (98, 88, 86), 16)
    pitch = rng.uniform(75, 120)
    u = block.u0 + 12
    while u + pitch < block.u1 + 10:
        v = block.v0 + 12
        while v + pitch < block.v1 + 10:
            kind = rng.uniform()
            wide, deep = rng.uniform(0.35, 0.65, 2) * pitch
            if kind < 0.7:
                podium = jitter(rng, (166, 158, 150), 30)
                block.roof(u, v, u + wide, v + deep, 8, podium, BUILDING)
                shrink = rng.uniform(0.1, 0.25)
                tall = float(rng.choice([25, 45, 70, 110]))
                roof = jitter(rng, (160, 158, 160), 60)
                inner = (
                    u + shrink * wide,
                    v + shrink * deep,
                    u + wide - shrink * wide,
                    v + deep - shrink * deep,
                )
                block.roof(*inner, tall, roof, BUILDING)
                for _ in range(3):
                    a, b = rng.uniform(inner[0], inner[2] - 5), rng.uniform(inner[1], inner[3] - 5)
                    block.roof(a, b, a + 5, b + 5, 3, jitter(rng, (110, 108, 110), 40), None)
            elif kind < 0.85:
                parking(block, u, v, u + pitch * 0.75, v + pitch * 0.7, asphalt)
            else:
                garden = block.outline(u, v, u + wide, v + deep)
                if not canvas.on_water(garden):
                    canvas.polygon(garden, jitter(rng, (84, 96, 70), 12), VEGETATION)
                    for _ in range(8):
                        block.tree(rng.uniform(u, u + wide), rng.uniform(v, v + deep), rng.uniform(2, 4), VEGETATION)
            v += pitch
        street(canvas, rng, block.line(u - 8, block.v0, u - 8, block.v1), rng.uniform(8, 14), asphalt)
        u += pitch


def parking(block: CityBlock, u0: float, v0: float, u1: float, v1: float, asphalt: Colour) -> None:
    """A car park: asphalt with rows of cars; it counts as road."""
    canvas, rng = block.canvas, block.rng
    outline = block.outline(u0, v0, u1, v1)
    if not canvas.visible(outline) or canvas.on_water(outline):
        return
    canvas.polygon(outline, asphalt, ROAD)
    for v in np.arange(v0 + 4, v1 - 6, 16):
        for u in np.arange(u0 + 2, u1 - 3, 2.8):
            if rng.uniform() < 0.55:
                car = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]
                ends = np.array([[u, v], [u, v + 4.4]])
                canvas.line(block.place(ends), 1.8, car, None)


def apartments(block: CityBlock) -> None:
    """Bar and U-shaped apartment houses around courts."""
    rng, canvas = block.rng, block.canvas
    green = rng.uniform() < 0.4
    block.ground(jitter(rng, (88, 96, 76) if green else (150, 146, 148), 16), VEGETATION if green else LAND)
    asphalt: Colour = jitter(rng, (100, 90, 88), 14)
    roofs = ROOFS[int(rng.integers(len(ROOFS)))]
    pitch, thick = rng.uniform(58, 90), rng.uniform(13, 19)
    height = rng.uniform(10, 24)
    u = block.u0 + 10
    while u + pitch < block.u1 + 4:
        v = block.v0 + 10
        while v + pitch < block.v1 + 4:
            colour = jitter(rng, roofs[int(rng.integers(len(roofs)))], 18)
            end = pitch - 16
            wings = [
                (0, 0, end, thick),
                (0, thick, thick, end),
                (end - thick, thick, end, end),
                (0, end - thick, end, end),
            ]
            for a, b, c, d in (wings[i] for i in sorted(rng.permutation(4)[: int(rng.integers(1, 5))].tolist())):
                block.roof(u + a, v + b, u + c, v + d, height, colour, BUILDING)
                for _ in range(int(rng.integers(2, 6))):
                    x, y = rng.uniform(u + a, u + c - 4), rng.uniform(v + b, v + d - 4)
                    block.roof(x, y, x + 4, y + 4, 2.5, jitter(rng, colour, 40), None)
            for _ in range(int(rng.integers(2, 10))):
                spot = rng.uniform(thick + 2, max(end - thick - 2, thick + 3), 2)
                block.tree(u + spot[0], v + spot[1], rng.uniform(1.5, 3.5), VEGETATION)
            v += pitch
        street(canvas, rng, block.line(u - 8, block.v0, u - 8, block.v1), rng.uniform(7, 10), asphalt)
        u += pitch


def warehouses(block: CityBlock) -> None:
    """Long halls in rows, with yards, containers and lorries."""
    rng, canvas = block.rng, block.canvas
    block.ground(jitter(rng, (172, 166, 164), 24), LAND)
    asphalt: Colour = jitter(rng, (112, 104, 100), 20)
    white = rng.uniform() < 0.6
    wide, gap = rng.uniform(18, 46), rng.uniform(6, 20)
    long = rng.uniform(50, 130)
    v = block.v0 + 14
    while v + wide < block.v1 - 4:
        u = block.u0 + rng.uniform(10, 16)
        while u + 30 < block.u1 - 6:
            end = min(u + long * rng.uniform(0.8, 1.1), block.u1 - 6)
            if rng.uniform() < 0.88:
                base: Colour = (228, 226, 220) if white else (150, 146, 150)
                colour = jitter(rng, base, 24)
                block.roof(u, v, end, v + wide, 9, colour, BUILDING)
                ridge = jitter(rng, colour, 30)
                canvas.line(block.line(u, v + wide / 2, end, v + wide / 2), 1.5, ridge, None)
            else:
                for _ in range(int(rng.integers(4, 26))):
                    a, b = rng.uniform(u, end - 6), rng.uniform(v, v + wide - 3)
                    block.roof(a, b, a + 6, b + 2.5, 2.6, jitter(rng, (170, 140, 130), 70), None)
            u = end + gap
        v += wide
        if rng.uniform() < 0.6:
            street(canvas, rng, block.line(block.u0, v + gap / 2, block.u1, v + gap / 2), min(gap, 9), asphalt)
        v += gap


DISTRICTS: dict[str, Callable[[CityBlock], None]] = {
    "villas": villas,
    "rings": rings,
    "towers": towers,
    "apartments": apartments,
    "warehouses": warehouses,
    "park": park,
    "empty": empty,
}
