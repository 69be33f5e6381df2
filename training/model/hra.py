"""HRA-proxy: which regions exist, from early tokens, and what they are, from the last ones.

Each patch is r x r cells; each cell belongs, softly, to one of the 3 x 3 patches around it (RegProxy, CVPR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import CELLS

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
"""Order of the nine affinities: row by row around the patch; 4 is the patch itself."""

OUTSIDE = -1.0e4
"""Bias of neighbours outside the image. exp of it is 0 in every precision, and it fits FP16 (largest 65504), where -inf
would give NaN as soon as something subtracts it from itself."""


def border_bias(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """1 x 9 x 1 x h x w: 0 where the neighbour exists, `OUTSIDE` where it does not."""
    h, w = grid
    inside = F.pad(torch.ones(h, w, device=device, dtype=dtype), (1, 1, 1, 1))
    shifted = torch.stack([inside[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for dy, dx in NEIGHBOURS])
    return ((1 - shifted) * OUTSIDE).view(1, len(NEIGHBOURS), 1, h, w)


def hsmf(affinity: Tensor, regions: Tensor) -> Tensor:
    """Affinity-weighted sum of the region logits of the 3 x 3 patches around each cell.

    Nine shifted slices instead of an unfold: no gather, no copy of the neighbourhoods, nothing above five dimensions.

    Args:
        affinity: B x 9 x r*r x h x w, in the order of `NEIGHBOURS`, summing to 1 over the nine.
        regions: B x C x h x w.

    Returns:
        HSMF, B x C x r*h x r*w.
    """
    h, w = regions.shape[-2:]
    padded = F.pad(regions, (1, 1, 1, 1))
    mixed: Tensor | None = None
    for index, (dy, dx) in enumerate(NEIGHBOURS):
        neighbour = padded[:, :, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w].unsqueeze(2)
        term = affinity[:, index].unsqueeze(1) * neighbour
        mixed = term if mixed is None else mixed + term
    assert mixed is not None
    return F.pixel_shuffle(mixed.flatten(1, 2), CELLS)


class HRA(nn.Module):
    """Affinities from the patch tokens after block M, region logits from the final ones, and their HSMF."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        # Tokens inside a pre-norm transformer have no fixed scale; the convolutions need one.
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.affinity = nn.Conv2d(width, len(NEIGHBOURS) * CELLS * CELLS, 1)
        self.classifier = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        nn.init.trunc_normal_(self.affinity.weight, std=0.02)
        assert self.affinity.bias is not None
        nn.init.zeros_(self.affinity.bias)

    def affinities(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens B x N x D after block M -> B x 9 x r*r x h x w, softmax over the nine; 0 outside the image."""
        h, w = grid
        x = self.norm(tokens).transpose(1, 2).reshape(tokens.shape[0], -1, h, w)
        x = F.gelu(self.pointwise(F.gelu(self.depthwise(x))))
        logits = self.affinity(x).view(tokens.shape[0], len(NEIGHBOURS), CELLS * CELLS, h, w)
        affinities: Tensor = (logits + border_bias(grid, logits.device, logits.dtype)).softmax(dim=1)
        return affinities

    def forward(self, early: Tensor, final: Tensor, grid: tuple[int, int]) -> Tensor:
        """Early and final patch tokens, B x N x D each -> HSMF, B x C x r*h x r*w."""
        regions = self.classifier(final).transpose(1, 2).reshape(final.shape[0], -1, *grid)
        return hsmf(self.affinities(early, grid), regions)
