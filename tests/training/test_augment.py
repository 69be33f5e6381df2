from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.array_tiles import blocks, decode, tile_of
from training.augment import AugmentConfig, cutmix, jitter_colours, random_crop

STILL = AugmentConfig(
    flip=False,
    quarter_turns=False,
    rotate=0.0,
    scale=(1.0, 1.0),
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    tint=0.0,
    gamma=0.0,
    cutmix=0.0,
)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def changed(**values: object) -> AugmentConfig:
    return AugmentConfig(**{**STILL.__dict__, **values})


def noise_tile(seed: int, height: int, width: int):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return tile_of(rng.integers(0, 7, (height, width), dtype=np.uint8), image)


@FEW
@given(st.integers(33, 90), st.integers(33, 90), st.integers(0, 2**32))
def test_with_everything_off_a_crop_is_an_exact_window(height, width, seed):
    tile = noise_tile(seed, height, width)
    image, labels = random_crop(tile, 32, STILL, np.random.default_rng(seed))
    windows = np.lib.stride_tricks.sliding_window_view(tile.labels, (32, 32))
    places = np.argwhere((windows == labels).all(axis=(2, 3)))
    assert len(places) == 1
    top, left = places[0]
    np.testing.assert_array_equal(image, tile.image[top : top + 32, left : left + 32])


def test_windows_reach_every_corner():
    tile = noise_tile(0, 34, 34)
    seen = set()
    for seed in range(200):
        labels = random_crop(tile, 32, STILL, np.random.default_rng(seed))[1]
        windows = np.lib.stride_tricks.sliding_window_view(tile.labels, (32, 32))
        seen.add(tuple(np.argwhere((windows == labels).all(axis=(2, 3)))[0]))
    assert {(0, 0), (0, 1), (1, 0), (1, 1)} <= seen
    assert all(row <= 2 and column <= 2 for row, column in seen)


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_and_mirrors_are_exact(turns):
    tile = noise_tile(3, 32, 32)
    config = changed(flip=True, quarter_turns=True)
    expected = [np.rot90(side, turns) for side in (tile.image, tile.image[:, ::-1])]
    crops = [random_crop(tile, 32, config, np.random.default_rng(seed)) for seed in range(60)]
    for wanted in expected:
        assert any(np.array_equal(image, wanted) for image, _ in crops)


@FEW
@given(
    st.integers(8, 150),
    st.integers(8, 150),
    st.sampled_from([16, 32, 48]),
    st.floats(0.2, 1.0),
    st.floats(1.0, 3.0),
    st.floats(0, 45),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_labels_follow_the_picture(height, width, size, low, high, rotate, turns, seed):
    tile = tile_of(blocks(seed, height, width, 12))
    config = changed(flip=True, quarter_turns=turns, rotate=rotate, scale=(low, high))
    image, labels = random_crop(tile, size, config, np.random.default_rng(seed))
    assert image.shape == (size, size, 3)
    assert labels.shape == (size, size)
    assert image.dtype == labels.dtype == np.uint8
    decoded = decode(image)
    pure = (decoded >= 0) & (labels != 255)
    np.testing.assert_array_equal(decoded[pure], labels[pure])
    # A decoder that calls everything a blend would pass the line above.
    assert pure.sum() >= 0.2 * (labels != 255).sum() or low < 0.5


@FEW
@given(st.integers(8, 80), st.integers(8, 80), st.integers(0, 2**32))
def test_outside_is_grey_and_ignored_and_inside_is_not(height, width, seed):
    tile = tile_of(np.zeros((height, width), np.uint8))
    config = AugmentConfig(scale=(0.6, 2.0))
    image, labels = random_crop(tile, 48, config, np.random.default_rng(seed))
    inside = labels != 255
    assert set(np.unique(labels)) <= {0, 255}
    # Pillow places labels in steps of 1/65536 pixel: one that lies on the very border may fall on its other side.
    assert (decode(image)[inside] != 0).sum() <= 2
    assert (image[~inside] != 128).any(axis=-1).sum() <= 2
    assert inside.any()


@FEW
@given(st.floats(0.5, 4.0), st.floats(0, 45), st.booleans(), st.integers(0, 2**32))
def test_a_crop_far_from_the_border_is_whole(zoom, rotate, turns, seed):
    # The centre is anywhere, so the tile is ignored except for a middle that no crop of this seed leaves.
    class Middle(np.random.Generator):
        def uniform(self, low, high):
            value = super().uniform(low, high)
            return 150.0 + value % 1 if high > 90 else value

    tile = tile_of(blocks(seed, 300, 300, 30))
    config = changed(flip=True, quarter_turns=turns, rotate=rotate, scale=(zoom, zoom))
    labels = random_crop(tile, 96, config, Middle(np.random.PCG64(seed)))[1]
    assert (labels != 255).all()


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_scale_is_pixels_of_crop_per_pixel_of_tile(zoom):
    # Stripes of 16 pixels: their width in the crop is the scale.
    stripes = np.repeat(np.arange(16, dtype=np.uint8) % 2, 16)[None].repeat(256, axis=0)
    labels = random_crop(tile_of(stripes), 64, changed(scale=(zoom, zoom)), np.random.default_rng(0))[1]
    edges = np.flatnonzero(np.diff(labels[32].astype(int)))
    assert np.abs(np.diff(edges) - 16 * zoom).max() <= 1


def test_scale_stays_between_its_bounds_and_uses_both_halves():
    stripes = np.repeat(np.arange(64, dtype=np.uint8) % 2, 8)[None].repeat(512, axis=0)
    tile = tile_of(stripes)
    widths = []
    for seed in range(150):
        labels = random_crop(tile, 128, changed(scale=(0.5, 2.0)), np.random.default_rng(seed))[1]
        widths.append(np.diff(np.flatnonzero(np.diff(labels[64].astype(int)))).mean() / 8)
    assert 0.45 <= min(widths) < 0.6
    assert 1.7 < max(widths) <= 2.1
    # Log-uniform: as often smaller as larger.
    assert 0.8 < np.median(widths) < 1.25


@pytest.mark.parametrize("limit", [0.0, 10.0, 45.0])
def test_rotation_stays_within_its_limit(limit):
    rows, columns = np.mgrid[:200, :200]
    tile = tile_of(((rows + 0 * columns) >= 100).astype(np.uint8))
    angles = []
    for seed in range(80):
        labels = random_crop(tile, 64, changed(rotate=limit), np.random.default_rng(seed))[1]
        first, last = (np.flatnonzero(labels[:, x] == 1) for x in (16, 48))
        if 0 < len(first) < 64 and 0 < len(last) < 64:
            angles.append(abs(np.degrees(np.arctan2(last[0] - first[0], 32))))
    assert len(angles) > 10
    assert max(angles) <= limit + 2.0
    assert limit == 0 or max(angles) > limit * 0.6


def test_a_crop_is_a_function_of_its_generator():
    tile = tile_of(blocks(0, 100, 120, 9))
    first, again, other = (random_crop(tile, 48, AugmentConfig(), np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_shrinking_averages_instead_of_picking():
    # Single white pixels on black: a sampler that skips pixels gives 0 or 255, an average gives about 255 / 16.
    image = np.zeros((256, 256, 3), np.uint8)
    image[::4, ::4] = 255
    tile = tile_of(np.zeros((256, 256), np.uint8), image)
    crop = random_crop(tile, 64, changed(scale=(0.25, 0.25)), np.random.default_rng(0))[0]
    assert crop.max() <= 40
    assert abs(float(crop.mean()) - 255 / 16) < 2


@FEW
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 2))
def test_jitter_stays_in_range(seed, amount, gamma):
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    config = AugmentConfig(brightness=amount, contrast=amount, saturation=amount, tint=amount, gamma=gamma)
    jittered = jitter_colours(images, config, torch.Generator().manual_seed(seed))
    assert jittered.shape == images.shape
    assert torch.isfinite(jittered).all()
    assert jittered.min() >= 0
    assert jittered.max() <= 1


def test_jitter_off_changes_nothing():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(jitter_colours(images, STILL, torch.Generator()), images, atol=1e-6, rtol=0)


def test_jitter_is_each_crops_own_and_repeats():
    images = torch.full((4, 3, 4, 4), 0.5)
    config = changed(brightness=0.3)
    first, again = (jitter_colours(images, config, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert len({float(value) for value in first[:, 0, 0, 0]}) == 4
    assert (first - 0.5).abs().max() <= 0.15 + 1e-6


def test_cutmix_moves_labels_with_their_pixels():
    labels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1).expand(6, 32, 32).contiguous()
    images = labels.unsqueeze(1).repeat(1, 3, 1, 1) * 10
    mixed = 0
    for seed in range(20):
        new_images, new_labels = cutmix(images, labels, 1.0, torch.Generator().manual_seed(seed))
        assert torch.equal(new_images, new_labels.unsqueeze(1).repeat(1, 3, 1, 1) * 10)
        # A swap, not a copy: every label still has as many pixels as before.
        assert torch.equal(new_labels.flatten().bincount(), labels.flatten().bincount())
        mixed += not torch.equal(new_labels, labels)
    assert mixed >= 18
    assert torch.equal(labels[3], torch.full((32, 32), 3, dtype=torch.uint8))


def test_cutmix_happens_as_often_as_configured():
    labels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1).expand(4, 16, 16)
    images = labels.unsqueeze(1)
    done = sum(
        not torch.equal(cutmix(images, labels, 0.3, torch.Generator().manual_seed(seed))[1], labels)
        for seed in range(400)
    )
    assert 80 <= done <= 145
    for seed in range(20):
        assert cutmix(images, labels, 0.0, torch.Generator().manual_seed(seed))[1] is labels
    assert cutmix(images[:1], labels[:1], 1.0, torch.Generator())[1].shape == (1, 16, 16)
