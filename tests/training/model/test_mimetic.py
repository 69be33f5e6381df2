from __future__ import annotations

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from training.model import EMRAConfig, EMRAProxy
from training.model.mimetic import start_mimetic

WIDTH, HEADS = 192, 3


@pytest.fixture(scope="module")
def models() -> tuple[EMRAProxy, EMRAProxy]:
    torch.manual_seed(0)
    plain = EMRAProxy(EMRAConfig(image_size=(64, 96)))
    started = EMRAProxy(plain.config)
    started.load_state_dict(plain.state_dict())
    start_mimetic(started, torch.Generator().manual_seed(1))
    return plain, started


def correlation(matrix: torch.Tensor) -> float:
    """Cosine of the angle between a matrix and the identity."""
    return float(matrix.trace() / (matrix.norm() * matrix.shape[0] ** 0.5))


def test_only_attention_and_positions_are_set(models):
    plain, started = models
    before = plain.state_dict()
    changed = {key for key, value in started.state_dict().items() if not torch.equal(value, before[key])}
    blocks = {f"backbone.blocks.{n}.attn.{part}.weight" for n in range(12) for part in ("qkv", "proj")}
    assert changed == {"backbone.patch_positions"} | blocks


def test_positions_are_sinusoids_of_the_grid(models):
    positions = models[1].backbone.patch_positions[0]
    assert positions.shape == (4 * 6, WIDTH)
    expected = build_sincos2d_pos_embed([4, 6], dim=WIDTH, interleave_sin_cos=False, dtype=torch.float32)
    torch.testing.assert_close(positions, expected)
    assert positions.requires_grad
    # Rows and columns differ, and no two places look the same.
    assert torch.cdist(positions.detach(), positions.detach()).fill_diagonal_(9).min() > 0.1


def test_queries_meet_keys_like_themselves(models):
    weight = models[1].backbone.blocks[5].attn.qkv.weight
    for head in range(HEADS):
        rows = slice(head * 64, head * 64 + 64)
        q, k = weight[:WIDTH][rows], weight[WIDTH : 2 * WIDTH][rows]
        # The best rank-64 part of 0.7 Z / sqrt(D) + 0.7 I keeps a clear share of the identity.
        assert correlation(q.T @ k) > 0.3
        torch.testing.assert_close(q.norm(), k.norm(), rtol=1e-4, atol=0)


def test_values_and_projection_are_the_formula(models):
    attention = models[1].backbone.blocks[0].attn
    product = attention.proj.weight @ attention.qkv.weight[2 * WIDTH :]
    noise = (product.T + 0.4 * torch.eye(WIDTH)) * WIDTH**0.5 / 0.4
    assert abs(float(noise.mean())) < 0.03
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)
    assert correlation(product) < -0.5


def test_it_is_a_function_of_the_generator(models):
    again = EMRAProxy(models[0].config)
    again.load_state_dict(models[0].state_dict())
    start_mimetic(again, torch.Generator().manual_seed(1))
    assert all(torch.equal(value, models[1].state_dict()[key]) for key, value in again.state_dict().items())
    start_mimetic(again, torch.Generator().manual_seed(2))
    key = "backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(again.state_dict()[key], models[1].state_dict()[key])


def test_attention_starts_near_its_own_place(models):
    """A flat image, so that positions alone decide: attention is above average at the token itself."""
    image = torch.zeros(1, 3, 64, 96)
    shares = []
    for model in models:
        with torch.no_grad():
            packed = model.backbone(image).qkv[-1]
            q, k, _ = packed.view(1, -1, 3, HEADS, 64).permute(2, 0, 3, 1, 4).unbind(0)
            attention = (q @ k.transpose(-2, -1) * 64**-0.5).softmax(-1)[0, :, 5:, 5:]
        # As a multiple of an even share.
        shares.append(float(attention.diagonal(dim1=1, dim2=2).mean() * 24))
    assert shares[0] < 1.05
    assert shares[1] > 1.15
