"""The stream of training crops: the tile of each, and their distribution over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.augment import AugmentConfig, random_crop
from training.data import Tile


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number i for any i, a pure function of (seed, i)."""

    def __init__(
        self,
        tiles: Sequence[Tile],
        scenes: Sequence[Tile],
        scene_fraction: float,
        size: int,
        augment: AugmentConfig,
        seed: int,
    ) -> None:
        self.tiles = tiles
        self.scenes = scenes
        self.scene_fraction = scene_fraction
        self.size = size
        self.augment = augment
        self.seed = seed
        # By the root of the area: in proportion to area, most crops would come from the few largest pictures.
        weights = np.sqrt([tile.height * tile.width for tile in tiles])
        self.odds = weights / weights.sum()

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image, uint8 3 x size x size, and labels, uint8 size x size."""
        rng = np.random.default_rng([self.seed, number])
        if rng.random() < self.scene_fraction:
            tile = self.scenes[int(rng.integers(len(self.scenes)))]
        else:
            tile = self.tiles[int(rng.choice(len(self.tiles), p=self.odds))]
        image, labels = random_crop(tile, self.size, self.augment, rng)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(labels.copy())


class Numbers(Sampler[list[int]]):
    """Batches of crop numbers from a given forward pass on; each process has its share."""

    def __init__(self, first: int, last: int, batch_size: int, rank: int, world: int) -> None:
        self.passes = range(first, last)
        self.batch_size = batch_size
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.passes:
            start = (number * self.world + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))


def crop_loader(crops: Crops, numbers: Numbers, workers: int, pin: bool) -> DataLoader[tuple[Tensor, Tensor]]:
    """Make a loader of batches in order, for any number of workers."""
    return DataLoader(
        crops,
        batch_sampler=numbers,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # Workers are forked: the decoded tiles that the parent holds are shared, not copied.
        multiprocessing_context="fork" if workers else None,
    )
