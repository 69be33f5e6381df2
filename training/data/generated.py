"""Generated scenes as a data set, so that they mix with real tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emra_deploy.scenes import DEFAULT_GSD, DUBAI_CLASSES, generate
from emra_deploy.windows import Window
from training.data.base import AerialDataset, Tile
from training.data.codecs import ColourCodec
from training.data.readers import cache

SIDE = 640
"""Pixels per side: room for crops that show twice the ground of 320 px."""

GSD_RANGE = (0.75, 2.25)
"""Metres per pixel, half to one and a half times the default of `scenes`: the areas of Dubai differ that much."""


@dataclass(frozen=True)
class SceneTile(Tile):
    """A scene, generated when first read and kept like a decoded picture.

    Attributes:
        seed: Of the scene.
        gsd: Metres per pixel.
    """

    seed: int = 0
    gsd: float = DEFAULT_GSD

    def read_image(self, window: Window | None = None) -> np.ndarray:
        """As `Tile.read_image`."""
        return self._read(window)[..., :3].copy()

    def read_labels(self, window: Window | None = None) -> np.ndarray:
        """As `Tile.read_labels`."""
        return self._read(window)[..., 3].copy()

    def _read(self, window: Window | None) -> np.ndarray:
        pixels = cache.get(("scene", self.seed, self.gsd), self._generate)
        return pixels if window is None else pixels[window.top : window.bottom, window.left : window.right]

    def _generate(self) -> np.ndarray:
        scene = generate(self.seed, self.height, self.width, self.gsd)
        return np.concatenate([scene.image, scene.labels[..., None]], axis=-1)


def generated_scenes(count: int, first_seed: int = 0) -> AerialDataset:
    """Scenes of consecutive seeds, of varying ground sample distance.

    Args:
        count: How many.
        first_seed: Of the first.

    Returns:
        A split named ``train`` with the classes of Dubai.
    """
    tiles = []
    for seed in range(first_seed, first_seed + count):
        gsd = float(np.random.default_rng(seed).uniform(*GSD_RANGE))
        name = f"scene-{seed:05d}"
        tiles.append(
            SceneTile(name, Path(name), Path(name), SIDE, SIDE, ColourCodec(DUBAI_CLASSES.palette), seed=seed, gsd=gsd)
        )
    return AerialDataset("scenes", DUBAI_CLASSES, "train", tuple(tiles))
