"""Fresh inputs: distinct JPEG files of one size, cut from a generated aerial scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.scenes import generate

COUNT = 16
"""Distinct pictures: more than what stays in a cache between two uses of the same one."""

QUALITY = 90
_SCENE = 2048


def write_pictures(folder: Path, size: tuple[int, int], count: int = COUNT, seed: int = 0) -> tuple[Path, ...]:
    """Write pictures of one size and give their names.

    Args:
        folder: Existing folder.
        size: Height and width in pixels.
        count: How many.
        seed: Of the scene and of the places.
    """
    from PIL import Image

    height, width = size
    scene = generate(seed, min(_SCENE, 2 * height), min(_SCENE, 2 * width)).image
    # A picture larger than the scene repeats it.
    repeats = (-(-2 * height // scene.shape[0]), -(-2 * width // scene.shape[1]), 1)
    scene = np.tile(scene, repeats)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        top = int(random.integers(0, scene.shape[0] - height + 1))
        left = int(random.integers(0, scene.shape[1] - width + 1))
        path = folder / f"{height}x{width}-{number:02}.jpg"
        Image.fromarray(scene[top : top + height, left : left + width]).save(path, quality=QUALITY)
        paths.append(path)
    return tuple(paths)
