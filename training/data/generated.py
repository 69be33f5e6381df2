"""Generated scenes as a data set: in memory, to mix with real tiles, or as a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from emra_deploy.errors import EmraError
from emra_deploy.pictures.windows import Window
from training.data.base import AerialDataset, Tile
from training.data.codecs import ColourCodec
from training.data.readers import cache
from training.data.scenes import DEFAULT_GSD, DUBAI_CLASSES, generate

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

    def read_image(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Pixels of a window; see `Tile.read_image`."""
        pixels: npt.NDArray[np.uint8] = self._read(window)[..., :3].copy()
        return pixels

    def read_labels(self, window: Window | None = None) -> npt.NDArray[np.uint8]:
        """Labels of a window; see `Tile.read_labels`."""
        labels: npt.NDArray[np.uint8] = self._read(window)[..., 3].copy()
        return labels

    def _read(self, window: Window | None) -> npt.NDArray[np.uint8]:
        pixels = cache.get(("scene", self.seed, self.gsd), self._generate)
        return pixels if window is None else pixels[window.top : window.bottom, window.left : window.right]

    def _generate(self) -> npt.NDArray[np.uint8]:
        scene = generate(self.seed, self.height, self.width, self.gsd)
        return np.concatenate([scene.image, scene.labels[..., None]], axis=-1)


def write_folder(
    root: str | os.PathLike[str], splits: Mapping[str, int], side: int = SIDE, first_seed: int = 0
) -> None:
    """Write scenes as a data set of the layout ``folder``, with the classes of Dubai: masks hold their colours.

    Args:
        root: A new or empty folder.
        splits: Number of scenes per split; seeds continue from one split to the next.
        side: Pixels per side.
        first_seed: Of the first.

    Raises:
        EmraError: ``output-exists``, ``output-unwritable``, ``scene-argument``.
    """
    home = Path(root)
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise EmraError("output-exists", "the folder exists and is not empty", "Choose another, or remove it", home)
    for split, count in splits.items():
        if count < 1:
            raise EmraError("scene-argument", f"{count} pictures for {split}, expected at least 1", "Give more")
    seed = first_seed
    palette = np.array(DUBAI_CLASSES.palette, np.uint8)
    try:
        for split, count in splits.items():
            images, masks = home / "images" / split, home / "masks" / split
            for folder in (images, masks):
                folder.mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                scene = generate(seed, side, side)
                Image.fromarray(scene.image).save(images / f"scene-{seed:05d}.png")
                Image.fromarray(palette[scene.labels]).save(masks / f"scene-{seed:05d}.png")
                seed += 1
        # Last: without it, an incomplete folder is no data set.
        colours = ", ".join('"#{:02X}{:02X}{:02X}"'.format(*colour) for colour in DUBAI_CLASSES.palette)
        text = f"names: [{', '.join(DUBAI_CLASSES.names)}]\ncolours: [{colours}]\nmasks: colour\ngsd: {DEFAULT_GSD}\n"
        (home / "classes.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise EmraError("output-unwritable", f"it cannot be written ({error})", "Choose another place", home) from error


def generated_scenes(count: int, first_seed: int = 0) -> AerialDataset:
    """Scenes of consecutive seeds, of varying ground sample distance.

    Args:
        count: Number of scenes.
        first_seed: Seed of the first.

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
