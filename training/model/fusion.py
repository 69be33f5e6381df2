"""Eq. 5 of the paper, and the two other answers to its open question 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import CELLS


class Fusion(nn.Module):
    """HSMF and GCA into logits.

    With G = up(N * GCA), which is 1 where attention is flat:
    ``product`` is HSMF * G; ``sum`` is HSMF + G; ``gated`` is HSMF * (1 + g * (G - 1)) with a learned g per class in
    (0, 1), so that g = 1 is the product and g = 0 ignores the class attention.
    """

    def __init__(self, kind: str, num_classes: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gated":
            self.gate = nn.Parameter(torch.zeros(1, num_classes, 1, 1))

    def forward(self, hsmf: Tensor, gca: Tensor) -> Tensor:
        """HSMF B x C x 4h x 4w, GCA B x C x h x w -> logits B x C x 4h x 4w."""
        patches = gca.shape[-2] * gca.shape[-1]
        attention = F.interpolate(gca * patches, scale_factor=float(CELLS), mode="bilinear", align_corners=False)
        if self.kind == "sum":
            return hsmf + attention
        if self.kind == "gated":
            return hsmf * (1 + self.gate.sigmoid() * (attention - 1))
        return hsmf * attention
