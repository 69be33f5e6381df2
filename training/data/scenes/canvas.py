"""Canvas of a scene: coordinates in metres over a picture, a label map and a shadow mask in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, hypot, pi, sin
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageDraw

Colour = tuple[int, int, int]
Points = NDArray[np.float64]

BUILDING, LAND, ROAD, VEGETATION, WATER = range(5)


class Axes:
    """A town's own coordinates: metres along its streets, turned and gently bent, to pixels.

    Args:
        rng: Draws the angle and the bends.
        height: Rows of the picture.
        width: Columns of the picture.
        gsd: Metres per pixel.
        bend: Largest sideways displacement of a street, metres.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, gsd: float, bend: float) -> None:
        self.gsd = gsd
        self.centre = (width / 2, height / 2)
        angle = rng.uniform(0, 2 * pi)
        self.cos, self.sin = cos(angle), sin(angle)
        self.bend = bend
        self.reach = hypot(height, width) * gsd / 2 + 2 * bend
        self.waves = rng.uniform(0.8, 1.8, 2) * 2 * pi / 1500.0
        self.phases = rng.uniform(0, 2 * pi, 2)
        self.offset = rng.uniform(-500, 500, 2)

    def to_pixels(self, points: Points) -> Points:
        """Map N x 2 positions (u, v) in metres to (x, y) in pixels."""
        u, v = points[:, 0], points[:, 1]
        bent_u = u + self.bend * np.sin(v * self.waves[0] + self.phases[0])
        bent_v = v + self.bend * np.sin(u * self.waves[1] + self.phases[1])
        x = (self.cos * bent_u - self.sin * bent_v) / self.gsd + self.centre[0]
        y = (self.sin * bent_u + self.cos * bent_v) / self.gsd + self.centre[1]
        return np.stack([x, y], axis=1)


class Canvas:
    """A picture, its labels and the shadows cast, drawn together so that they agree.

    Args:
        terrain: uint8 height x width x 3, the ground before anything is built.
        labels: uint8 height x width, its labels.
        gsd: Metres per pixel.
        sun: Direction in which shadows fall (x, y), pixels per metre of height.
    """

    def __init__(
        self, terrain: NDArray[np.uint8], labels: NDArray[np.uint8], gsd: float, sun: tuple[float, float]
    ) -> None:
        from PIL import Image, ImageDraw

        self.height, self.width = labels.shape
        self.gsd = gsd
        self.sun = sun
        self.terrain_labels = labels
        self.colour_image = Image.fromarray(terrain)
        self.label_image = Image.fromarray(labels)
        self.shadow_image = Image.new("L", (self.width, self.height), 0)
        self.colour: ImageDraw.ImageDraw = ImageDraw.Draw(self.colour_image)
        self.label: ImageDraw.ImageDraw = ImageDraw.Draw(self.label_image)
        self.shadow: ImageDraw.ImageDraw = ImageDraw.Draw(self.shadow_image)

    def visible(self, points: Points, margin: float = 0.0) -> bool:
        """Whether the bounding box of N x 2 pixel positions, grown by a margin in pixels, meets the picture."""
        low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
        return bool(low[0] < self.width and low[1] < self.height and high[0] >= 0 and high[1] >= 0)

    def on_water(self, points: Points) -> bool:
        """Whether any of N x 2 pixel positions lies on the terrain's water."""
        return bool((self._ground(points) == WATER).any())

    def on(self, points: Points, label: int) -> bool:
        """Whether all of N x 2 pixel positions lie on terrain of a label."""
        return bool((self._ground(points) == label).all())

    def _ground(self, points: Points) -> NDArray[np.uint8]:
        # Outside the picture the ground is taken to go on as at its edge.
        columns = np.clip(points[:, 0], 0, self.width - 1).astype(np.intp)
        rows = np.clip(points[:, 1], 0, self.height - 1).astype(np.intp)
        return self.terrain_labels[rows, columns]

    def polygon(self, points: Points, colour: Colour | None, label: int | None) -> None:
        """Fill a polygon of N x 2 pixel positions; None leaves the picture or the labels as they are."""
        corners = _corners(points)
        if colour is not None:
            self.colour.polygon(corners, fill=colour)
        if label is not None:
            self.label.polygon(corners, fill=label)

    def tint(self, points: Points, colour: Colour, strength: float) -> None:
        """Blend a colour over a polygon of N x 2 pixel positions, 0 to 1; the ground's texture stays."""
        from PIL import Image, ImageDraw

        low = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, (self.width, self.height))
        if (high <= low).any():
            return
        mask = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])), 0)
        ImageDraw.Draw(mask).polygon(_corners(points - low), fill=round(255 * strength))
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        self.colour_image.paste(Image.new("RGB", mask.size, colour), box, mask)

    def line(self, points: Points, metres: float, colour: Colour | None, label: int | None) -> None:
        """Draw a polyline of N x 2 pixel positions of a width in metres, at least one pixel."""
        width = max(1, round(metres / self.gsd))
        corners = _corners(points)
        joint = "curve" if width > 3 else None
        if colour is not None:
            self.colour.line(corners, fill=colour, width=width, joint=joint)
        if label is not None:
            self.label.line(corners, fill=label, width=width, joint=joint)

    def disc(self, x: float, y: float, metres: float, colour: Colour | None, label: int | None) -> None:
        """Draw a disc of a radius in metres around a pixel position."""
        radius = metres / self.gsd
        box = [round(x - radius), round(y - radius), round(x + radius), round(y + radius)]
        if colour is not None:
            self.colour.ellipse(box, fill=colour)
        if label is not None:
            self.label.ellipse(box, fill=label)

    def cast(self, points: Points, metres: float) -> None:
        """Cast the shadow of a prism over N x 2 pixel positions, of a height in metres."""
        shift = np.array(self.sun) * metres
        steps = 1 if metres < 12 else 2
        for step in range(1, steps + 1):
            self.shadow.polygon(_corners(points + shift * (step / steps)), fill=255)
        # The walls between the outline and the shifted outline.
        far = points + shift
        for i in range(len(points)):
            j = (i + 1) % len(points)
            self.shadow.polygon(_corners(np.array([points[i], points[j], far[j], far[i]])), fill=255)

    def clear_shadow(self, points: Points) -> None:
        """Let the sun on a roof again."""
        self.shadow.polygon(_corners(points), fill=0)

    def clear_shadow_line(self, points: Points, metres: float) -> None:
        """Let the sun on a polyline of N x 2 pixel positions of a width in metres, such as a raised road."""
        self.shadow.line(_corners(points), fill=0, width=max(1, round(metres / self.gsd)), joint="curve")

    def cast_disc(self, x: float, y: float, metres: float, height: float) -> None:
        """Cast the shadow of a crown of a radius and a height in metres."""
        radius = metres / self.gsd
        x, y = x + self.sun[0] * height, y + self.sun[1] * height
        box = [round(x - radius), round(y - radius), round(x + radius), round(y + radius)]
        self.shadow.ellipse(box, fill=255)


def _corners(points: Points) -> Sequence[tuple[int, int]]:
    # Whole pixels: the same on every platform, whatever the last bit of a sine.
    return [(x, y) for x, y in np.rint(points).astype(int).tolist()]


def rectangle(u0: float, v0: float, u1: float, v1: float, pieces: int = 1) -> Points:
    """Outline of a rectangle in metres, its long sides cut in pieces so that it bends with the axes."""
    along = np.linspace(u0, u1, pieces + 1)
    top = np.stack([along, np.full(pieces + 1, v0)], axis=1)
    bottom = np.stack([along[::-1], np.full(pieces + 1, v1)], axis=1)
    return np.concatenate([top, bottom])


def jitter(rng: np.random.Generator, colour: Colour, amount: int) -> Colour:
    """The colour, lighter or darker by up to an amount, and a little off in hue."""
    shift = int(rng.integers(-amount, amount + 1))
    tint = rng.integers(-4, 5, 3)
    red, green, blue = (max(0, min(255, c + shift + int(t))) for c, t in zip(colour, tint, strict=True))
    return red, green, blue
