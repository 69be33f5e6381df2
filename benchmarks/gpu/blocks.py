"""Cost of the aggregation in a backbone: ViT-B's blocks with and without it, as CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu.library import Aggregation, Problem
from benchmarks.gpu.rows import Goal, Row
from benchmarks.gpu.timing import time_graphs

GOAL = 1.06
DEPTH = 12


class Block(nn.Module):
    """A pre-norm transformer block of ViT-B (timm's, without dropout), that keeps its packed qkv."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens B x T x D -> (tokens, packed qkv B x T x 3D)."""
        batch, tokens, width = x.shape
        packed = self.qkv(self.norm1(x))
        q, k, v = packed.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)))), packed


def compare_blocks(library: Aggregation, tokens: int) -> list[Row]:
    """Rows of the blocks at batch 1 in FP16, bare and with the aggregation over the last four."""
    problem = Problem(tokens)
    width = problem.heads * problem.width
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(width, problem.heads) for _ in range(DEPTH)).cuda().half().eval()
    x = torch.randn(1, tokens, width, device="cuda", dtype=torch.float16)

    @torch.inference_mode()
    def bare() -> Tensor:
        y = x
        for block in blocks:
            y, _ = block(y)
        return y

    @torch.inference_mode()
    def aggregated() -> tuple[Tensor, Tensor]:
        y, kept = x, []
        for block in blocks:
            y, packed = block(y)
            kept.append(packed)
        return y, library(problem, kept[-problem.blocks :])

    times, failures = time_graphs({"bare": [bare], "with aggregation": [aggregated]}, rounds=9)
    if failures:
        raise RuntimeError(f"the blocks could not be timed: {failures}")
    section = f"ViT-B blocks, T = {tokens}, batch 1, FP16, CUDA graphs"
    rows = [
        Row(section, name, seconds * 1e6, "us", note=f"scatter {scatter:.1%}")
        for name, (seconds, scatter) in times.items()
    ]
    ratio = times["with aggregation"][0] / times["bare"][0]
    goal = Goal("<=", GOAL) if tokens == 1031 else None
    return [*rows, Row(section, "with aggregation / bare", ratio, "", goal)]
