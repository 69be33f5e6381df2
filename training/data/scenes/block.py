"""One block of a town, and drawing on it."""

from __future__ import annotations

import numpy as np

from training.data.scenes.canvas import Axes, Canvas, Colour, Points, jitter, rectangle

ROOFS: tuple[tuple[Colour, ...], ...] = (
    ((226, 224, 226), (206, 204, 206), (180, 178, 182)),
    ((178, 172, 168), (156, 150, 146), (206, 200, 192)),
    ((166, 168, 206), (142, 146, 190), (206, 206, 222)),
    ((206, 148, 118), (190, 160, 140), (226, 214, 204)),
    ((120, 116, 116), (146, 142, 142), (172, 168, 168)),
)
"""Sets of roof colours; a quarter has one set."""


class CityBlock:
    """One rectangle between the roads, in metres (u, v).

    Args:
        canvas: Where to draw.
        axes: The town's coordinates.
        rng: The block's own randomness; half the blocks have their streets along the other axis.
        box: Smallest u and v, largest u and v, in the metres of the axes.
    """

    def __init__(
        self, canvas: Canvas, axes: Axes, rng: np.random.Generator, box: tuple[float, float, float, float]
    ) -> None:
        self.canvas = canvas
        self.axes = axes
        self.rng = rng
        self.turned = bool(rng.uniform() < 0.5)
        self.u0, self.v0, self.u1, self.v1 = (box[1], box[0], box[3], box[2]) if self.turned else box

    def place(self, points: Points) -> Points:
        """Map N x 2 positions in the block's metres to pixels."""
        return self.axes.to_pixels(points[:, ::-1] if self.turned else points)

    def outline(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """Pixel outline of a rectangle in metres; long ones follow the bends of the axes."""
        pieces = max(1, int((u1 - u0) / 40))
        return self.place(rectangle(u0, v0, u1, v1, pieces))

    def line(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """Pixel positions along a straight line in metres."""
        count = max(2, int((abs(u1 - u0) + abs(v1 - v0)) / 12))
        return self.place(np.stack([np.linspace(u0, u1, count), np.linspace(v0, v1, count)], axis=1))

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
        x, y = self.place(np.array([[u, v]]))[0]
        near = -20 < x < self.canvas.width + 20 and -20 < y < self.canvas.height + 20
        if not near or self.canvas.on_water(np.array([[x, y]])):
            return
        self.canvas.cast_disc(x, y, radius, radius * 1.2)
        self.canvas.disc(x, y, radius, jitter(self.rng, (58, 66, 50), 16), label)
