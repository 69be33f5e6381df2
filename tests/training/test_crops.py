from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.array_tiles import blocks, tile_of
from training.augment import AugmentConfig
from training.crops import Crops, Numbers, crop_loader


@pytest.fixture(scope="module")
def crops() -> Crops:
    tiles = [tile_of(blocks(seed, 60 + seed, 80, 10), name=f"tile{seed}") for seed in range(4)]
    scenes = [tile_of(np.full((50, 50), 6, np.uint8), name="scene")]
    return Crops(tiles, scenes, 0.25, 32, AugmentConfig(), seed=3)


def batches(crops: Crops, numbers: Numbers, workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(crop_loader(crops, numbers, workers, pin=False))


def test_a_crop_depends_on_seed_and_number_alone(crops):
    image, labels = crops[7]
    assert image.shape == (3, 32, 32)
    assert labels.shape == (32, 32)
    assert image.dtype == labels.dtype == torch.uint8
    _ = crops[2], crops[9]
    assert torch.equal(crops[7][0], image)
    assert not torch.equal(crops[8][0], image)
    other = Crops(crops.tiles, crops.scenes, crops.scene_fraction, 32, crops.augment, seed=4)
    assert not torch.equal(other[7][0], image)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(crops, workers):
    alone = batches(crops, Numbers(3, 7, 2, 0, 1), 0)
    shared = batches(crops, Numbers(3, 7, 2, 0, 1), workers)
    assert len(alone) == len(shared) == 4
    for (image, labels), (other_image, other_labels) in zip(alone, shared, strict=True):
        assert torch.equal(image, other_image)
        assert torch.equal(labels, other_labels)


def test_a_resumed_stream_is_the_rest_of_the_whole_one(crops):
    whole = batches(crops, Numbers(0, 5, 2, 0, 1), 0)
    rest = batches(crops, Numbers(3, 5, 2, 0, 1), 0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_what_one_process_would_see(world):
    single = list(Numbers(2, 6, 4 * world, 0, 1))
    ranks = [list(Numbers(2, 6, 4, rank, world)) for rank in range(world)]
    assert all(len(batch) == 4 for share in ranks for batch in share)
    for step, whole in enumerate(single):
        parts = [number for share in ranks for number in share[step]]
        assert len(set(parts)) == len(parts)
        assert sorted(parts) == whole
    flat = [number for batch in single for number in batch]
    assert flat == list(range(2 * 4 * world, 6 * 4 * world))


def test_accumulated_batches_are_the_larger_batch():
    small = [number for batch in Numbers(0, 6, 2, 0, 1) for number in batch]
    large = [number for batch in Numbers(0, 2, 6, 0, 1) for number in batch]
    assert small == large
    assert len(Numbers(1, 6, 2, 0, 1)) == 5


def test_scenes_are_drawn_as_often_as_configured(crops):
    seen = [int((crops[number][1] == 6).float().mean() > 0.95) for number in range(300)]
    assert 45 <= sum(seen) <= 105


def test_tiles_are_drawn_by_the_root_of_their_area():
    large, small = np.zeros((120, 120), np.uint8), np.ones((30, 30), np.uint8)
    augment = AugmentConfig(scale=(1.0, 1.0), rotate=0.0)
    crops = Crops([tile_of(large), tile_of(small)], [], 0.0, 16, augment, 0)
    share = np.mean([float(crops[number][1][8, 8] == 1) for number in range(400)])
    assert abs(share - 0.2) < 0.06
