"""Smooth random fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatField = NDArray[np.float32]


def smooth_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    period: float,
    octaves: int = 4,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> FloatField:
    """Fractal value noise of mean about 0 and standard deviation about 1.

    Args:
        rng: Source of randomness; each call draws a number of values that depends on the size and the period only.
        height: Rows.
        width: Columns.
        period: Size of the largest lumps, pixels.
        octaves: Number of layers, each of half the size of the one before; layers below 1.5 pixels are left out.
        gain: Amplitude of a layer relative to the one before.
        stretch: Lumps are this many times longer along the rows than along the columns.

    Returns:
        float32 of height x width, rounded to 1/4096 so that the last bit of a platform's arithmetic does not move
        the thresholds applied to it.
    """
    from PIL import Image

    total = np.zeros((height, width), np.float32)
    power = 0.0
    amplitude = 1.0
    for _ in range(octaves):
        if period < 1.5 and power > 0:
            break
        step = max(period, 1.0)
        rows, columns = int(height / step) + 4, int(width / (step * stretch)) + 4
        grid = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
        big_height, big_width = max(int(rows * step), height), max(int(columns * step * stretch), width)
        # The box cuts a window of the enlarged grid without computing the rest of it.
        top, left = rng.uniform(0, 1, 2)
        y0 = (big_height - height) / big_height * rows * top
        x0 = (big_width - width) / big_width * columns * left
        box = (
            x0,
            y0,
            min(x0 + width / big_width * columns, columns),
            min(y0 + height / big_height * rows, rows),
        )
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
        total += np.float32(amplitude) * np.asarray(layer, np.float32)
        power += amplitude * amplitude
        amplitude *= gain
        period *= 0.5
    total *= np.float32(2.0 / max(power, 1e-6) ** 0.5)
    total *= np.float32(4096)
    np.round(total, out=total)
    total /= np.float32(4096)
    return total
