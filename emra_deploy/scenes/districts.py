"""What fills the blocks between the arterial roads: villas, towers, apartments, warehouses, parks, empty plots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emra_deploy.scenes.canvas import BUILDING, LAND, ROAD, VEGETATION, WATER, Canvas, Colour, Frame, Points
from emra_deploy.scenes.canvas import jitter, rectangle
from emra_deploy.scenes.roads import CAR_COLOURS, street, track

ROOFS: tuple[tuple[Colour, ...], ...] = (
    ((226, 224, 226), (206, 204, 206), (180, 178, 182)),
    ((178, 172, 168), (156, 150, 146), (206, 200, 192)),
    ((166, 168, 206), (142, 146, 190), (206, 206, 222)),
    ((206, 148, 118), (190, 160, 140), (226, 214, 204)),
    ((120, 116, 116), (146, 142, 142), (172, 168, 168)),
)


class Block:
    """One rectangle between the roads, in the metres of a frame."""

    def __init__(
        self, canvas: Canvas, frame: Frame, rng: np.random.Generator, box: tuple[float, float, float, float]
    ) -> None:
        self.canvas = canvas
        self.frame = frame
        self.rng = rng
        self.u0, self.v0, self.u1, self.v1 = box

    def outline(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """Pixel outline of a rectangle in metres; long ones follow the bends of the frame."""
        pieces = max(1, int((u1 - u0) / 40))
        return self.frame.to_pixels(rectangle(u0, v0, u1, v1, pieces))

    def line(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """Pixel positions along a straight line in metres."""
        count = max(2, int((abs(u1 - u0) + abs(v1 - v0)) / 12))
        return self.frame.to_pixels(
            np.stack([np.linspace(u0, u1, count), np.linspace(v0, v1, count)], axis=1)
        )

    def ground(self, colour: Colour, label: int) -> None:
        """Cover the whole block."""
        self.canvas.polygon(self.outline(self.u0, self.v0, self.u1, self.v1), colour, label)

    def roof(
        self, u0: float, v0: float, u1: float, v1: float, height: float, colour: Colour, label: int | None
    ) -> None:
        """Put up a flat-roofed house of a height in metres, with a parapet and its shadow."""
        points = self.outline(u0, v0, u1, v1)
        if not self.canvas.visible(points, height * 2 / self.canvas.gsd) or self.canvas.on_water(points):
            return
        self.canvas.cast(points, height)
        self.canvas.clear_shadow(points)
        self.canvas.polygon(points, colour, label)

    def tree(self, u: float, v: float, radius: float, label: int | None = None) -> None:
        """Plant a tree or a palm with a crown of a radius in metres."""
        x, y = self.frame.to_pixels(np.array([[u, v]]))[0]
        if not (-20 < x < self.canvas.width + 20 and -20 < y < self.canvas.height + 20):
            return
        self.canvas.cast_disc(x, y, radius, radius * 1.2)
        self.canvas.disc(x, y, radius, jitter(self.rng, (58, 66, 50), 16), label)


def villas(block: Block) -> None:
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
    for u in (block.u0, block.u1):
        street(canvas, rng, block.line(u, block.v0, u, block.v1), road, asphalt)


def _villa_row(
    block: Block,
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
    u = ends[0]
    while u + pitch <= ends[1]:
        plot = block.outline(u, v, u + pitch, v + depth)
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
            left, right = u + rng.uniform(1, 3), u + pitch - rng.uniform(1, 3)
            block.roof(left, near, right, front, height, colour, None)
            for _ in range(int(rng.integers(1, 4))):
                a, b = (
                    left + rng.uniform(0, 0.6) * (right - left),
                    near + rng.uniform(0, 0.6) * (front - near),
                )
                size = rng.uniform(3, 7)
                block.roof(
                    a, b, min(a + size, right), min(b + size, front), 2.5, jitter(rng, colour, 34), None
                )
            for _ in range(int(rng.poisson(1.2 + 2 * garden))):
                block.tree(
                    u + rng.uniform(0, pitch), back + rng.uniform(0, depth * 0.36), rng.uniform(1.2, 2.8)
                )
        u += pitch


def towers(block: Block) -> None:
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
                        block.tree(
                            rng.uniform(u, u + wide), rng.uniform(v, v + deep), rng.uniform(2, 4), VEGETATION
                        )
            v += pitch
        street(canvas, rng, block.line(u - 8, block.v0, u - 8, block.v1), rng.uniform(8, 14), asphalt)
        u += pitch


def parking(block: Block, u0: float, v0: float, u1: float, v1: float, asphalt: Colour) -> None:
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
                canvas.line(block.frame.to_pixels(ends), 1.8, car, None)


def apartments(block: Block) -> None:
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
            bars = [
                (0, 0, end, thick),
                (0, thick, thick, end),
                (end - thick, thick, end, end),
                (0, end - thick, end, end),
            ]
            for a, b, c, d in (
                bars[i] for i in sorted(rng.permutation(4)[: int(rng.integers(1, 5))].tolist())
            ):
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


def warehouses(block: Block) -> None:
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
            street(
                canvas, rng, block.line(block.u0, v + gap / 2, block.u1, v + gap / 2), min(gap, 9), asphalt
            )
        v += gap


def park(block: Block) -> None:
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
        canvas.polygon(
            block.frame.to_pixels(middle + outline * (size + 3)), jitter(rng, (120, 122, 104), 16), None
        )
        canvas.polygon(block.frame.to_pixels(middle + outline * size), dark, WATER)
    path = jitter(rng, (170, 162, 156), 16)
    angles = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack(
        [middle_u + 0.8 * size_u * np.cos(angles), middle_v + 0.8 * size_v * np.sin(angles)], axis=1
    )
    canvas.line(block.frame.to_pixels(ring), 3.5, path, ROAD if rng.uniform() < 0.5 else LAND)
    for _ in range(min(600, int(rng.uniform(0.0005, 0.005) * 4 * size_u * size_v))):
        u, v = rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)
        x, y = block.frame.to_pixels(np.array([[u, v]]))[0]
        radius = rng.uniform(1.5, 4.5)
        inside = 0 <= x < canvas.width and 0 <= y < canvas.height
        if inside and canvas.label_image.getpixel((int(x), int(y))) == VEGETATION:
            block.tree(u, v, radius, VEGETATION)


def _blob_outline(block: Block, u: float, v: float, radius: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    lobes = sum(
        block.rng.uniform(0, 0.32) / (k - 1) * np.sin(k * angles + block.rng.uniform(0, 6.3))
        for k in (2, 3, 4)
    )
    length = radius * (1 + lobes)
    return np.stack([u + length * np.cos(angles), v + length * np.sin(angles)], axis=1)


def _blob(block: Block, u: float, v: float, radius: float, colour: Colour, label: int | None) -> None:
    block.canvas.polygon(block.frame.to_pixels(_blob_outline(block, u, v, radius)), colour, label)


def empty(block: Block) -> None:
    """Sand with tracks, heaps and now and then a building site."""
    rng, canvas = block.rng, block.canvas
    for _ in range(int(rng.poisson(1.6))):
        spot = np.array([[rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1)]])
        x, y = block.frame.to_pixels(spot)[0]
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
        wide, deep = rng.uniform(14, 60, 2)
        block.roof(u, v, u + wide, v + deep, rng.uniform(4, 12), jitter(rng, (196, 192, 190), 40), BUILDING)
    for _ in range(int(rng.poisson(6))):
        block.tree(rng.uniform(block.u0, block.u1), rng.uniform(block.v0, block.v1), rng.uniform(1.0, 2.4))


DISTRICTS: dict[str, Callable[[Block], None]] = {
    "villas": villas,
    "towers": towers,
    "apartments": apartments,
    "warehouses": warehouses,
    "park": park,
    "empty": empty,
}
