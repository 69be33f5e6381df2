"""A timm vision transformer whose CLS token is replaced by one token per class."""

from __future__ import annotations

from typing import Any, NamedTuple

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import BACKBONES, PATCH, EMRAConfig


class Features(NamedTuple):
    """What the heads read of a backbone.

    Attributes:
        early: Patch tokens after block M, B x N x D.
        final: Patch tokens after the last block and norm, B x N x D.
        qkv: The packed qkv of the last P blocks, oldest first, B x T x 3D each, class tokens first.
        classes: Class tokens after the last block and norm, B x C x D.
    """

    early: Tensor
    final: Tensor
    qkv: list[Tensor]
    classes: Tensor


class ClassTokenViT(nn.Module):
    """Blocks, patch embedding and final norm of timm's ViT; class tokens and position tables of our own."""

    # Of timm, and without stubs: torch would call them Tensor | Module.
    patch_embed: Any
    blocks: Any
    norm: Any

    def __init__(self, config: EMRAConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        spec = BACKBONES[config.backbone]
        vit: Any = timm.create_model(
            spec.timm_name,
            pretrained=False,
            img_size=config.network_size,
            num_classes=0,
            global_pool="",
            drop_path_rate=drop_path,
        )
        self.patch_embed = vit.patch_embed
        # A crop of another size is not an error: the position table is resampled in `forward`.
        self.patch_embed.strict_img_size = False
        self.blocks = vit.blocks
        self.norm = vit.norm
        self.class_tokens = nn.Parameter(torch.empty(1, config.num_classes, spec.width))
        self.class_positions = nn.Parameter(torch.empty(1, config.num_classes, spec.width))
        self.patch_positions = nn.Parameter(torch.empty(1, config.grid[0] * config.grid[1], spec.width))
        for table in (self.class_tokens, self.class_positions, self.patch_positions):
            nn.init.trunc_normal_(table, std=0.02)
        self.grid = config.grid
        self.hra_block = config.hra_block
        self.mca_blocks = config.mca_blocks

    @property
    def num_heads(self) -> int:
        """Heads of each block."""
        return int(self.blocks[0].attn.num_heads)

    @property
    def scale(self) -> float:
        """Factor on Q K^T."""
        return float(self.blocks[0].attn.scale)

    def freeze(self, blocks: int) -> None:
        """Train no weight before the end of a block; 0 leaves all as they are."""
        if blocks:
            for part in (self.patch_embed, *self.blocks[:blocks]):
                part.requires_grad_(False)
            for table in (self.class_tokens, self.class_positions, self.patch_positions):
                table.requires_grad_(False)

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Resample the stored position table, in place, to h x w patches (bicubic, as timm does)."""
        if grid != self.grid:
            table = resample_abs_pos_embed(self.patch_positions.data, grid, self.grid, num_prefix_tokens=0)
            self.patch_positions = nn.Parameter(table)
            self.grid = grid

    def forward(self, image: Tensor) -> Features:
        """B x 3 x H x W, normalised; H and W multiples of 16 -> `Features`."""
        grid = (image.shape[-2] // PATCH, image.shape[-1] // PATCH)
        positions = self.patch_positions
        if grid != self.grid:
            positions = resample_abs_pos_embed(positions, grid, self.grid, num_prefix_tokens=0)
        patches = self.patch_embed(image) + positions
        classes = (self.class_tokens + self.class_positions).expand(image.shape[0], -1, -1)
        x = torch.cat([classes, patches], dim=1)
        c = classes.shape[1]
        early = patches
        packed = []
        for number, block in enumerate(self.blocks, start=1):
            x, qkv = run_block(block, x)
            if number == self.hra_block:
                early = x[:, c:]
            if number > len(self.blocks) - self.mca_blocks:
                packed.append(qkv)
        x = self.norm(x)
        return Features(early, x[:, c:], packed, x[:, :c])


def run_block(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A timm ViT block that also returns its packed qkv.

    timm's own forward hides q and k inside the attention, and the aggregation reads both; computing them twice would
    cost a quarter of the block.

    Args:
        block: A `timm.models.vision_transformer.Block` without q and k norms, as in the `vit_*_patch16_224` family.
        x: Tokens, B x T x D.

    Returns:
        The block's output, B x T x D, and qkv, B x T x 3D.
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(x))
    batch, tokens, _ = x.shape
    q, k, v = qkv.view(batch, tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    attended = attention.proj(attended.transpose(1, 2).reshape(batch, tokens, -1))
    x = x + block.drop_path1(block.ls1(attended))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), qkv
