"""Streets, highways, roundabouts and tracks."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np

from training.data.scenes.canvas import LAND, ROAD, VEGETATION, Axes, Canvas, Colour, Points, jitter

CAR_COLOURS: tuple[Colour, ...] = (
    (240, 240, 238),
    (250, 248, 244),
    (205, 205, 210),
    (30, 28, 30),
    (220, 120, 60),
)


def asphalt(rng: np.random.Generator) -> Colour:
    """A road colour: brownish grey, from fresh and dark to bleached."""
    level = int(rng.integers(62, 112))
    return level + 7, level, level - int(rng.integers(0, 5))


def carriageway(
    canvas: Canvas, rng: np.random.Generator, points: Points, metres: float, colour: Colour, traffic: float
) -> None:
    """Draw one carriageway with its kerbs, lane lines and cars.

    Args:
        canvas: Where to draw.
        rng: Source of randomness.
        points: N x 2 pixel positions of its middle.
        metres: Its width.
        colour: Of the asphalt.
        traffic: Cars per 100 m.
    """
    light: Colour = (colour[0] + 45, colour[1] + 47, colour[2] + 48)
    canvas.line(points, metres + 2.4, light, None)
    canvas.line(points, metres, colour, ROAD)
    paint: Colour = (colour[0] + 18, colour[1] + 19, colour[2] + 20)
    lanes = round(metres / 3.6)
    if lanes >= 2 and canvas.gsd <= 2.0:
        for lane in range(1, lanes):
            canvas.line(offset(points, (lane * metres / lanes - metres / 2) / canvas.gsd), 0.3, paint, None)
    _cars(canvas, rng, points, metres, traffic)


def offset(points: Points, pixels: float) -> Points:
    """A polyline of N x 2 positions moved sideways."""
    ahead = np.gradient(points, axis=0)
    length = np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-6)
    return points + np.stack([-ahead[:, 1] / length, ahead[:, 0] / length], axis=1) * pixels


def _cars(canvas: Canvas, rng: np.random.Generator, points: Points, metres: float, traffic: float) -> None:
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    total = float(lengths.sum()) * canvas.gsd
    count = int(rng.poisson(min(traffic * total / 100, 4000)))
    if not count:
        return
    along = np.sort(rng.uniform(0, 1, count))
    segment = np.minimum(np.searchsorted(np.cumsum(lengths) / lengths.sum(), along), len(lengths) - 1)
    place = points[segment] + steps[segment] * rng.uniform(0, 1, (count, 1))
    ahead = steps[segment] / np.maximum(lengths[segment], 1e-6)[:, None]
    side = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    place = place + side * rng.uniform(-0.4, 0.4, (count, 1)) * metres / canvas.gsd
    ends = place + ahead * (4.5 / canvas.gsd)
    inside = (place > -9).all(1) & (place[:, 0] < canvas.width + 9) & (place[:, 1] < canvas.height + 9)
    for i in np.flatnonzero(inside):
        canvas.line(np.stack([place[i], ends[i]]), 2.0, CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))], None)


def street(
    canvas: Canvas,
    rng: np.random.Generator,
    points: Points,
    metres: float,
    colour: Colour,
    bridge: bool = False,
) -> None:
    """Draw a street of a width in metres; from 22 m on with two carriageways and a median.

    Where it meets water it stops, unless it is a bridge.
    """
    if not bridge:
        for dry in _dry_parts(canvas, points):
            street(canvas, rng, dry, metres, colour, bridge=True)
        return
    if metres < 22:
        carriageway(canvas, rng, points, metres, colour, 0.5)
        return
    green = rng.uniform() < 0.4
    median: Colour = jitter(rng, (84, 92, 70), 10) if green else jitter(rng, (168, 164, 162), 20)
    canvas.line(points, metres, median, VEGETATION if green else LAND)
    each = metres * 0.42
    for side in (-1, 1):
        carriageway(canvas, rng, offset(points, side * (metres - each) / 2 / canvas.gsd), each, colour, 1.5)


def _dry_parts(canvas: Canvas, points: Points) -> list[Points]:
    parts: list[Points] = []
    start = 0
    for i in range(len(points)):
        if canvas.on_water(points[i : i + 1]):
            if i - start >= 3:
                parts.append(points[start : i - 1])
            start = i + 1
    if len(points) - start >= 2:
        parts.append(points[start:])
    return [part for part in parts if len(part) >= 2 and canvas.visible(part, 50)]


def roundabout(canvas: Canvas, rng: np.random.Generator, x: float, y: float, radius: float, colour: Colour) -> None:
    """Draw a roundabout of an outer radius in metres at a pixel position."""
    if canvas.on_water(np.array([[x, y]])):
        return
    canvas.disc(x, y, radius + 1.5, (178, 174, 172), None)
    canvas.disc(x, y, radius, colour, ROAD)
    inner = radius * rng.uniform(0.5, 0.7)
    if rng.uniform() < 0.5:
        canvas.disc(x, y, inner, jitter(rng, (86, 94, 72), 10), VEGETATION)
    else:
        canvas.disc(x, y, inner, jitter(rng, (180, 176, 174), 20), LAND)
    if rng.uniform() < 0.5:
        canvas.disc(x, y, inner * 0.4, jitter(rng, (190, 186, 180), 30), LAND)


def highway(canvas: Canvas, rng: np.random.Generator, axes: Axes) -> None:
    """Draw a broad highway across the scene, with side roads and slip roads; it bridges water."""
    colour = asphalt(rng)
    reach = axes.reach
    place = rng.uniform(-0.5, 0.5) * reach
    steps = np.linspace(-reach, reach, 60)
    swing = rng.uniform(0, 0.25) * reach
    bend = np.sin(steps / max(reach, 1e-6) * rng.uniform(0.5, 1.6) * pi + rng.uniform(0, 2 * pi))
    lane = place + swing * bend
    line = np.stack([steps, lane], axis=1) if rng.uniform() < 0.5 else np.stack([lane, steps], axis=1)
    points = axes.to_pixels(line)
    each = rng.uniform(16, 24)
    verge: Colour = jitter(rng, (176, 172, 170), 16)
    canvas.clear_shadow_line(points, 2 * each + 24)
    canvas.line(points, 2 * each + 14, verge, LAND)
    for side in (-1, 1):
        middle = offset(points, side * (each / 2 + 2) / canvas.gsd)
        carriageway(canvas, rng, middle, each, colour, 3.0)
        if rng.uniform() < 0.6:
            service = offset(points, side * (each + rng.uniform(14, 26)) / canvas.gsd)
            street(canvas, rng, service, 8.0, colour)


def track(canvas: Canvas, rng: np.random.Generator, x: float, y: float) -> None:
    """Draw a dirt road that wanders from a pixel position; the clear ones count as roads, the faint ones do not."""
    heading, turn = rng.uniform(0, 2 * pi), 0.0
    step = 14 / canvas.gsd
    path = [(x, y)]
    for _ in range(int(rng.integers(8, 60))):
        turn = 0.8 * turn + rng.normal(0, 0.05)
        heading += turn
        x, y = x + step * cos(heading), y + step * sin(heading)
        path.append((x, y))
    points = np.array(path)
    clear = rng.uniform() < 0.5
    for dry in _dry_parts(canvas, points):
        if clear:
            tone = int(rng.integers(128, 190))
            width = rng.uniform(5, 11)
            canvas.line(dry, width + 2, (tone + 22, tone + 18, tone + 18), None)
            canvas.line(dry, width, (tone + 4, tone, tone), ROAD)
            canvas.line(dry, width / 4, (tone + 16, tone + 13, tone + 12), None)
        else:
            tone = int(rng.integers(150, 215))
            canvas.line(dry, rng.uniform(1.0, 2.2), (tone, tone - 2, tone - 2), None)
