"""Eq. 5 and its variants."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from training.model.config import FUSIONS
from training.model.fusion import Fusion


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """HSMF and GCA of a 3 x 5 grid, 4 classes."""
    generator = torch.Generator().manual_seed(0)
    hsmf = torch.randn(2, 4, 12, 20, generator=generator, dtype=torch.float64)
    gca = torch.rand(2, 4, 3, 5, generator=generator, dtype=torch.float64) / 15
    return hsmf, gca


def upsampled(gca: torch.Tensor) -> torch.Tensor:
    """Bilinear by hand: weights of two 1-D interpolations with half-pixel centres."""

    def matrix(small: int) -> torch.Tensor:
        rows = torch.zeros(4 * small, small, dtype=torch.float64)
        for index in range(4 * small):
            position = max((index + 0.5) / 4 - 0.5, 0.0)
            low = int(position)
            high = min(low + 1, small - 1)
            rows[index, low] += 1 - (position - low)
            rows[index, high] += position - low
        return rows

    h, w = gca.shape[-2:]
    return torch.einsum("yh,bchw,xw->bcyx", matrix(h), gca * h * w, matrix(w))


def test_product_is_equation_5(maps) -> None:
    hsmf, gca = maps
    torch.testing.assert_close(Fusion("product", 4)(hsmf, gca), hsmf * upsampled(gca))


def test_sum_adds(maps) -> None:
    hsmf, gca = maps
    torch.testing.assert_close(Fusion("sum", 4)(hsmf, gca), hsmf + upsampled(gca))


@pytest.mark.parametrize(("gate", "kind"), [(60.0, "product"), (-60.0, "hsmf")])
def test_gate_limits(maps, gate: float, kind: str) -> None:
    hsmf, gca = maps
    fusion = Fusion("gated", 4).double()
    torch.nn.init.constant_(fusion.gate, gate)
    expected = Fusion("product", 4)(hsmf, gca) if kind == "product" else hsmf
    torch.testing.assert_close(fusion(hsmf, gca), expected)


def test_gate_is_per_class_and_learns(maps) -> None:
    hsmf, gca = maps
    fusion = Fusion("gated", 4).double()
    with torch.no_grad():
        fusion.gate[0, 2] = -60.0
    logits = fusion(hsmf, gca)
    torch.testing.assert_close(logits[:, 2], hsmf[:, 2])
    assert (logits[:, 1] - hsmf[:, 1]).abs().max() > 0.01
    logits.square().sum().backward()
    assert (fusion.gate.grad[0, [0, 1, 3]] != 0).all()


def test_flat_attention_leaves_hsmf_alone(maps) -> None:
    hsmf, gca = maps
    flat = torch.full_like(gca, 1 / 15)
    for kind in ("product", "gated", "log"):
        torch.testing.assert_close(Fusion(kind, 4).double()(hsmf, flat), hsmf)


def test_log_adds_the_sharpened_logarithm(maps) -> None:
    hsmf, gca = maps
    fusion = Fusion("log", 4).double()
    sharpness = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=torch.float64).view(1, 4, 1, 1)
    with torch.no_grad():
        fusion.log_sharpness.copy_(sharpness.log())
    # `upsampled` multiplies by h * w, which is 15.
    expected = hsmf + upsampled((gca * 15).log() * sharpness / 15)
    torch.testing.assert_close(fusion(hsmf, gca), expected)
    torch.testing.assert_close(fusion.evidence(gca), (gca * 15).log() * sharpness)


@pytest.mark.parametrize(("kind", "monotone"), [("log", True), ("sum", True), ("product", False)])
def test_more_attention_speaks_for_a_class(maps, kind: str, monotone: bool) -> None:
    """Also where HSMF is negative, which is where Eq. 5 turns it round."""
    hsmf, gca = maps
    fusion = Fusion(kind, 4).double()
    rise = fusion(hsmf, gca * 1.5) - fusion(hsmf, gca)
    assert bool((rise > 0).all()) == monotone


def test_no_attention_at_all_is_finite() -> None:
    hsmf = torch.zeros(1, 2, 8, 8)
    gca = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2).expand(1, 2, 2, 2).clone().requires_grad_()
    logits = Fusion("log", 2)(hsmf, gca)
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert gca.grad.isfinite().all()
    assert Fusion("log", 2).half()(hsmf.half(), gca.half()).isfinite().all()


def test_only_the_learned_fusions_have_weights() -> None:
    assert {kind: sum(p.numel() for p in Fusion(kind, 4).parameters()) for kind in FUSIONS} == {
        "product": 0,
        "sum": 0,
        "gated": 4,
        "log": 4,
    }


def test_upsampling_by_hand_is_torch(maps) -> None:
    """Guards the reference above."""
    _, gca = maps
    expected = F.interpolate(gca * 15, scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled(gca), expected)
