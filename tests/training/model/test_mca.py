"""Class attention: both forms against a loop over blocks, heads and tokens, and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.model.aggregation import aggregate_explicit, aggregate_streamed, split_qk
from training.model.mca import MCA

CASES = [
    # batch, heads, head width, classes, patches, blocks
    (1, 1, 32, 2, 1, 1),
    (2, 3, 64, 5, 16, 4),
    (1, 2, 32, 32, 50, 2),
    (1, 2, 64, 32, 33, 3),
    (2, 6, 32, 7, 96, 6),
    (1, 2, 16, 20, 12, 2),
]


def random_qkv(case: tuple[int, ...], dtype: torch.dtype, spread: float = 2.0) -> list[Tensor]:
    batch, heads, width, classes, patches, blocks = case
    generator = torch.Generator().manual_seed(sum(case))
    shape = (batch, classes + patches, 3 * heads * width)
    return [torch.randn(shape, dtype=dtype, generator=generator) * spread for _ in range(blocks)]


def by_loop(qkv: list[Tensor], heads: int, classes: int, scale: float) -> Tensor:
    """The formula, one softmax row at a time: c2p = mean A[:C, C:], GCA = mean A[C:, C:] @ c2p^T."""
    batch, tokens, packed = qkv[0].shape
    width = packed // (3 * heads)
    mean = torch.zeros(batch, tokens, tokens, dtype=qkv[0].dtype)
    for block in qkv:
        for head in range(heads):
            q = block[:, :, head * width : (head + 1) * width]
            k = block[:, :, (heads + head) * width : (heads + head + 1) * width]
            for row in range(tokens):
                scores = torch.einsum("bd,btd->bt", q[:, row], k) * scale
                weights = (scores - scores.max(dim=1, keepdim=True).values).exp()
                mean[:, row] += weights / weights.sum(dim=1, keepdim=True)
    mean /= len(qkv) * heads
    return torch.einsum("bpn,bcn->bcp", mean[:, classes:, classes:], mean[:, :classes, classes:])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("aggregate", [aggregate_explicit, aggregate_streamed])
def test_both_forms_equal_the_loop(aggregate, case: tuple[int, ...]) -> None:
    _, heads, width, classes, patches, _ = case
    qkv = random_qkv(case, torch.float64)
    scale = 1 / math.sqrt(width)
    gca = aggregate(qkv, heads, classes, scale)
    assert gca.shape == (case[0], classes, patches)
    torch.testing.assert_close(gca, by_loop(qkv, heads, classes, scale), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("case", [*CASES, (1, 3, 64, 6, 256, 4)])
def test_streamed_equals_explicit_with_gradients(case: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    _, heads, width, classes, patches, _ = case
    scale = 1 / math.sqrt(width)
    results = []
    for aggregate in (aggregate_explicit, aggregate_streamed):
        qkv = [block.requires_grad_() for block in random_qkv(case, dtype)]
        # N * GCA, the scale on which the fusion reads it.
        gca = aggregate(qkv, heads, classes, scale) * patches
        # Weighs every value differently.
        weights = torch.linspace(-1, 1, gca.numel(), dtype=dtype).view_as(gca)
        (gca * weights).sum().backward()
        results.append((gca.detach(), [block.grad for block in qkv]))
    (explicit, explicit_grads), (streamed, streamed_grads) = results
    assert (explicit - streamed).abs().max() <= tolerance * explicit.max()
    assert (explicit - streamed).abs().max() / patches <= tolerance
    for one, other in zip(explicit_grads, streamed_grads, strict=True):
        assert one.abs().max() > 0 or patches == 1
        assert (one - other).abs().max() / patches <= tolerance
        # Gradients went through two softmaxes and sums over all tokens, in another order.
        assert (one - other).abs().max() <= 4 * tolerance * max(1.0, float(one.abs().max()))
        # GCA reads queries and keys only.
        values = slice(2 * heads * width, None)
        assert (one[..., values] == 0).all()
        assert (other[..., values] == 0).all()


@pytest.mark.parametrize("form", ["explicit", "streamed"])
def test_flat_attention_gives_one_over_n_of_what_reaches_patches(form: str) -> None:
    """Zero queries attend evenly: every A is 1 / T, so GCA is N / T^2 everywhere."""
    classes, grid = 3, (4, 6)
    patches = 24
    total = classes + patches
    qkv = [torch.zeros(1, total, 3 * 64, dtype=torch.float64)] * 2
    gca = MCA(2, classes, 1 / math.sqrt(32), form)(qkv, grid)
    assert gca.shape == (1, classes, 4, 6)
    torch.testing.assert_close(gca, torch.full_like(gca, patches / total**2))


def test_map_is_laid_out_by_rows() -> None:
    """A class token that looks at one patch, which looks at itself only, marks that patch's place on the grid."""
    classes, (h, w) = 2, (3, 5)
    total = classes + h * w
    target = 1 * w + 3
    q = torch.zeros(1, total, total, dtype=torch.float64)
    k = torch.eye(total, dtype=torch.float64)[None] * 100
    q[0, classes:, classes:] = torch.eye(h * w, dtype=torch.float64)
    q[0, 1, classes + target] = 1
    qkv = [torch.cat([q, k, torch.zeros_like(q)], dim=2)]
    for form in ("explicit", "streamed"):
        gca = MCA(1, classes, 1.0, form)(qkv, (h, w))
        expected = torch.zeros(h, w, dtype=torch.float64)
        expected[1, 3] = 1
        torch.testing.assert_close(gca[0, 1], expected, atol=1e-12, rtol=0)


def test_split_is_a_view_in_the_order_the_linear_wrote() -> None:
    packed = torch.arange(2 * 3 * 24, dtype=torch.float32).view(2, 3, 24)
    q, k = split_qk(packed, 2)
    assert q.shape == k.shape == (2, 2, 3, 4)
    assert q.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
    assert (q[1, 1, 2] == packed[1, 2, 4:8]).all()
    assert (k[0, 1, 0] == packed[0, 0, 12:16]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_finite(dtype: torch.dtype) -> None:
    case = (1, 2, 32, 6, 64, 4)
    qkv = random_qkv(case, torch.float32, spread=1.0)
    full = aggregate_explicit(qkv, 2, 6, 32**-0.5)
    for aggregate in (aggregate_explicit, aggregate_streamed):
        low = aggregate([block.to(dtype) for block in qkv], 2, 6, 32**-0.5)
        assert low.isfinite().all()
        assert (low.float() - full).abs().max() <= 0.05 * full.max()
