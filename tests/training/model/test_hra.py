"""HRA against a reference written from the paper's definition with unfold, and what happens at the image's border."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.model.hra import HRA, NEIGHBOURS, border_bias, hsmf

WIDTH = 24
CELLS = 4


def random_hra(classes: int, dtype: torch.dtype) -> HRA:
    """Weights large enough that the affinities are far from flat."""
    torch.manual_seed(1)
    hra = HRA(WIDTH, classes).to(dtype)
    for parameter in hra.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return hra


def tokens(batch: int, grid: tuple[int, int], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(batch, grid[0] * grid[1], WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def reference(hra: HRA, early: Tensor, final: Tensor, grid: tuple[int, int]) -> Tensor:
    """HSMF with every neighbourhood unfolded and neighbours outside the image masked by -inf."""
    (h, w), batch = grid, early.shape[0]
    x = F.layer_norm(early, (WIDTH,), hra.norm.weight, hra.norm.bias, 1e-6).transpose(1, 2).reshape(batch, WIDTH, h, w)
    windows = F.unfold(x, 3, padding=1).view(batch, WIDTH, 9, h * w)
    x = torch.einsum("bdkn,dk->bdn", windows, hra.depthwise.weight.view(WIDTH, 9)) + hra.depthwise.bias[:, None]
    x = torch.einsum("bdn,ed->ben", F.gelu(x), hra.pointwise.weight[:, :, 0, 0]) + hra.pointwise.bias[:, None]
    x = torch.einsum("bdn,kd->bkn", F.gelu(x), hra.affinity.weight[:, :, 0, 0]) + hra.affinity.bias[:, None]
    logits = x.view(batch, 9, CELLS, CELLS, h * w)
    exists = F.unfold(torch.ones(1, 1, h, w, dtype=x.dtype), 3, padding=1).view(1, 9, 1, 1, h * w) > 0
    affinity = logits.masked_fill(~exists, -torch.inf).softmax(dim=1)
    regions = (final @ hra.classifier.weight.T + hra.classifier.bias).transpose(1, 2).reshape(batch, -1, h, w)
    around = F.unfold(regions, 3, padding=1).view(batch, -1, 9, h * w)
    cells = torch.einsum("bkyxn,bckn->bcnyx", affinity, around).view(batch, -1, h, w, CELLS, CELLS)
    return cells.permute(0, 1, 2, 4, 3, 5).reshape(batch, -1, h * CELLS, w * CELLS)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 2), (6, 4)])
def test_hsmf_equals_the_unfolded_definition(dtype: torch.dtype, tolerance: float, grid: tuple[int, int]) -> None:
    hra = random_hra(5, dtype).requires_grad_(False)
    early, final = tokens(2, grid, dtype, 2), tokens(2, grid, dtype, 3)
    expected = reference(hra, early, final, grid)
    actual = hra(early, final, grid)
    assert actual.shape == (2, 5, 4 * grid[0], 4 * grid[1])
    assert (actual - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def test_gradients_equal_those_of_the_unfolded_definition() -> None:
    hra = random_hra(3, torch.float64)
    early = tokens(1, (3, 4), torch.float64, 4).requires_grad_()
    final = tokens(1, (3, 4), torch.float64, 5).requires_grad_()
    inputs = [early, final, *hra.parameters()]
    actual = torch.autograd.grad(hra(early, final, (3, 4)).square().sum(), inputs)
    expected = torch.autograd.grad(reference(hra, early, final, (3, 4)).square().sum(), inputs)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def outside(grid: tuple[int, int]) -> Tensor:
    """9 x h x w: whether the neighbour is outside the image."""
    h, w = grid
    rows, columns = torch.arange(h)[:, None], torch.arange(w)[None, :]
    return torch.stack(
        [(rows + dy < 0) | (rows + dy >= h) | (columns + dx < 0) | (columns + dx >= w) for dy, dx in NEIGHBOURS]
    )


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_weight_leaves_the_image(grid: tuple[int, int], dtype: torch.dtype) -> None:
    affinity = random_hra(4, dtype).affinities(tokens(2, grid, dtype, 6), grid)
    assert affinity.isfinite().all()
    mask = outside(grid)[None, :, None].expand_as(affinity)
    assert (affinity[mask] == 0).all()
    epsilon = torch.finfo(dtype).eps
    assert (affinity.double().sum(dim=1) - 1).abs().max() <= 9 * epsilon
    assert (affinity >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_finite_and_near_full_precision(dtype: torch.dtype) -> None:
    grid = (4, 5)
    hra = random_hra(4, torch.float32)
    with torch.no_grad():
        hra.affinity.weight.mul_(0.02)
        early, final = tokens(1, grid, torch.float32, 7), tokens(1, grid, torch.float32, 8)
        full = hra(early, final, grid)
        low = hra.to(dtype)(early.to(dtype), final.to(dtype), grid)
    assert low.isfinite().all()
    assert (low.float() - full).abs().max() <= 0.1 * full.abs().max()


def test_border_bias_is_finite_in_half_precision() -> None:
    bias = border_bias((2, 3), torch.device("cpu"), torch.float16)
    assert bias.isfinite().all()
    torch.testing.assert_close(bias[0, :, 0] < 0, outside((2, 3)))


def test_values_outside_the_image_would_not_matter() -> None:
    """A border patch sees only patches that exist: equal logits everywhere come through unchanged at the edge too."""
    grid = (3, 3)
    affinity = random_hra(2, torch.float64).affinities(tokens(1, grid, torch.float64, 9), grid)
    mixed = hsmf(affinity, torch.full((1, 2, 3, 3), 7.0, dtype=torch.float64))
    torch.testing.assert_close(mixed, torch.full((1, 2, 12, 12), 7.0, dtype=torch.float64))


def test_each_affinity_points_at_its_own_neighbour() -> None:
    """All weight on one neighbour copies the region map, shifted by that neighbour's offset."""
    h, w = 4, 5
    regions = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w)
    for index, (dy, dx) in enumerate(NEIGHBOURS):
        affinity = torch.zeros(1, 9, CELLS * CELLS, h, w)
        affinity[:, index] = 1
        cells = hsmf(affinity, regions)[0, 0]
        row, column = 1, 2
        patch = cells[row * CELLS : (row + 1) * CELLS, column * CELLS : (column + 1) * CELLS]
        assert (patch == regions[0, 0, row + dy, column + dx]).all()
