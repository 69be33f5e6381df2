"""A start for transformers without pre-training: attention that begins near what trained attention looks like.

Mimetic initialisation (Trockman and Kolter, ICML 2023): per head, W_q W_k^T = 0.7 Z / sqrt(D) + 0.7 I, so that a
token attends to tokens like itself and, through sinusoidal positions, near it; W_v W_proj = 0.4 Z / sqrt(D) - 0.4 I.
The four factors are theirs.
"""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor

from training.model.emra import EMRAProxy

QK_NOISE = QK_IDENTITY = 0.7
VP_NOISE = VP_IDENTITY = 0.4


@torch.no_grad()
def start_mimetic(model: EMRAProxy, generator: torch.Generator) -> None:
    """Set position tables and attention weights, in place.

    Args:
        model: Freshly built.
        generator: On the CPU; decides the noise.
    """
    backbone = model.backbone
    width = backbone.class_tokens.shape[-1]
    backbone.patch_positions.copy_(
        build_sincos2d_pos_embed(list(backbone.grid), dim=width, interleave_sin_cos=False, dtype=torch.float32)
    )
    heads = backbone.num_heads
    head_width = width // heads
    identity = torch.eye(width)
    for block in backbone.blocks:
        for head in range(heads):
            target = QK_NOISE * _noise(width, generator) + QK_IDENTITY * identity
            left, right = _factors(target, head_width)
            rows = slice(head * head_width, (head + 1) * head_width)
            block.attn.qkv.weight[rows].copy_(left.T)
            block.attn.qkv.weight[width + rows.start : width + rows.stop].copy_(right)
        left, right = _factors(VP_NOISE * _noise(width, generator) - VP_IDENTITY * identity, width)
        block.attn.qkv.weight[2 * width :].copy_(left.T)
        block.attn.proj.weight.copy_(right.T)


def _noise(width: int, generator: torch.Generator) -> Tensor:
    noise: Tensor = torch.randn(width, width, generator=generator) / width**0.5
    return noise


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of a rank: D x rank and rank x D, each carrying the root of the singular values."""
    u, s, vh = torch.linalg.svd(matrix)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]
