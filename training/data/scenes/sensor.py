"""Effects of sun, air, optics, sensor and compression on a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.scenes.noise import smooth_noise

# The orthonormal 8 x 8 cosine transform times 4096, rounded: integers, so that every platform agrees.
_COSINES = np.rint(
    4096
    * np.array(
        [
            [np.cos((2 * x + 1) * u * np.pi / 16) * (np.sqrt(0.125) if u == 0 else 0.5) for x in range(8)]
            for u in range(8)
        ]
    )
).astype(np.int64)
_FREQUENCY = np.add.outer(np.arange(8), np.arange(8))


def shade(
    rng: np.random.Generator, colour: NDArray[np.uint8], shadow: NDArray[np.uint8], gsd: float
) -> NDArray[np.float32]:
    """Darken the shadows and give every surface a fine relief.

    Args:
        rng: Source of randomness.
        colour: uint8 H x W x 3.
        shadow: uint8 H x W, 255 in full shadow.
        gsd: Metres per pixel.

    Returns:
        float32 H x W x 3, about 0 to 255.
    """
    height, width = shadow.shape
    dark = shadow.astype(np.float32) / 255 * np.float32(rng.uniform(0.5, 0.85))
    relief = 1 + np.float32(rng.uniform(0.015, 0.04)) * smooth_noise(rng, height, width, max(9 / gsd, 2.0), 3, 0.8)
    lit = ((1 - dark) * relief)[..., None]
    # Shadows are lit by the sky, which is bluer than the sun.
    shaded: NDArray[np.float32] = np.multiply(colour, lit)
    shaded += dark[..., None] * np.array([4, 6, 10], np.float32) * np.float32(rng.uniform(0.5, 3))
    return shaded


def expose(rng: np.random.Generator, picture: NDArray[np.float32], gsd: float) -> NDArray[np.uint8]:
    """Haze, colour cast, contrast, blur, sharpening, noise and compression.

    Args:
        rng: Source of randomness.
        picture: float32 H x W x 3, about 0 to 255.
        gsd: Metres per pixel.

    Returns:
        uint8 H x W x 3.
    """
    height, width, _ = picture.shape
    cast = rng.normal((1.0, 0.99, 1.015), 0.025).astype(np.float32)
    gain = np.float32(rng.uniform(0.9, 1.3))
    pivot = np.float32(rng.uniform(105, 135))
    picture = (picture - pivot) * (gain * cast) + pivot * np.float32(rng.uniform(0.75, 1.15))
    if rng.uniform() < 0.25:
        haze = np.float32(rng.uniform(0.03, 0.18))
        veil = haze * (1 + np.float32(0.3) * smooth_noise(rng, height, width, 900 / gsd, 2))
        picture = picture + np.clip(veil, 0, 0.4)[..., None] * (np.array([214, 216, 224], np.float32) - picture)
    picture = _optics(rng, np.clip(picture, 0, 255).astype(np.uint8))
    grain = rng.normal(0, 1, (height, width, 1)).astype(np.float32) * np.float32(rng.uniform(0.5, 3.5))
    grain = grain + rng.normal(0, 1, (height, width, 3)).astype(np.float32) * np.float32(rng.uniform(0.2, 1.5))
    exposed = np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8)
    return compress(exposed, int(rng.integers(4, 16))) if rng.uniform() < 0.6 else exposed


def _optics(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    from PIL import Image, ImageFilter

    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.35, 0.8))))
    if rng.uniform() < 0.75:
        image = image.filter(ImageFilter.UnsharpMask(radius=1.2, percent=int(rng.integers(40, 160)), threshold=0))
    return np.asarray(image, np.float32)


def compress(picture: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Apply JPEG's losses: 8 x 8 cosine blocks, coarser steps for higher frequencies and for colour.

    It is not the JPEG codec itself, whose result depends on the library's version.

    Args:
        picture: uint8 H x W x 3.
        step: Quantisation step of the lowest frequencies, 1 to 64.

    Returns:
        uint8 H x W x 3.
    """
    height, width, _ = picture.shape
    padded = np.pad(picture, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge").astype(np.int32)
    red, green, blue = padded[..., 0], padded[..., 1], padded[..., 2]
    luma = (77 * red + 150 * green + 29 * blue) >> 8
    steps = step + (step * _FREQUENCY) // 3
    luma = _quantise(luma, steps)
    cb, cr = _quantise(blue - luma, 3 * steps), _quantise(red - luma, 3 * steps)
    out = np.stack([luma + cr, luma - ((77 * cr + 29 * cb) // 150), luma + cb], axis=-1)
    lossy: NDArray[np.uint8] = np.clip(out[:height, :width], 0, 255).astype(np.uint8)
    return lossy


def _quantise(plane: NDArray[np.int32], steps: NDArray[np.int64]) -> NDArray[np.int32]:
    rows, columns = plane.shape
    blocks = plane.reshape(rows // 8, 8, columns // 8, 8).transpose(0, 2, 1, 3).astype(np.float64)
    # Products of whole numbers below 2**53 are exact in float64 in any order, and run at its speed.
    cosines = _COSINES.astype(np.float64)
    found = cosines @ blocks @ cosines.T
    scale = steps * 4096.0 * 4096.0
    kept = np.floor(found / scale + 0.5) * steps
    back = np.floor(cosines.T @ kept @ cosines / (4096.0 * 4096.0) + 0.5)
    restored: NDArray[np.int32] = back.astype(np.int32).transpose(0, 2, 1, 3).reshape(rows, columns)
    return restored
