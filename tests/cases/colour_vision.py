"""Differences of colours for each kind of colour vision.

Simulation by the matrices of Machado, Oliveira and Fernandes (2009) for a missing kind of cone, in linear light;
differences by CIEDE2000 (Sharma, Wu and Dalal 2005).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.float64]

VISIONS = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: tuple[int, ...], vision: str = "normal") -> Colours:
    """CIE L*a*b* (D65) of an sRGB colour as someone sees it."""
    encoded = np.asarray(colour) / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISIONS[vision] @ light, 0, 1)
    x, y, z = (
        np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in _XYZ @ seen / [0.95047, 1, 1.08883]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: Colours, two: Colours) -> float:
    """CIEDE2000 of two colours in L*a*b*."""
    chroma = (np.hypot(*one[1:]) + np.hypot(*two[1:])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    (l1, c1, h1), (l2, c2, h2) = (
        (light, np.hypot(a * stretch, b), np.degrees(np.arctan2(b, a * stretch)) % 360) for light, a, b in (one, two)
    )
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    lightness, mean = (l1 + l2) / 2, (c1 + c2) / 2
    tone = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue) + 0.32 * _cos(3 * hue + 6) - 0.2 * _cos(4 * hue - 63)
    dl = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * mean)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2) / (1 + 0.015 * mean * tone)
    rotation = 2 * np.sqrt(mean**7 / (mean**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    return float(np.sqrt(dl**2 + dc**2 + dh**2 - rotation * dc * dh))


def least_difference(palette: tuple[tuple[int, ...], ...]) -> float:
    """The difference of the two most similar colours, for the vision to which they are most similar."""
    return min(
        difference(lab(one, vision), lab(two, vision)) for vision in VISIONS for one, two in combinations(palette, 2)
    )


def _cos(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))
