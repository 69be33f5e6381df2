"""Eq. 5 of the paper, and the other answers to its open question 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.config import CELLS

SHARPNESS = 5.0
"""Factor of log G that training starts from. G of a fresh model is within 0.9 to 1.1, so its say is half a logit."""

FLOOR = 1e-3
"""Least G whose logarithm is taken: bounds the gradient, and lies within FP16."""


class Fusion(nn.Module):
    """HSMF and GCA into logits.

    With G = up(N * GCA), which is 1 where attention is flat:
    ``product`` is HSMF * G; ``sum`` is HSMF + G; ``gated`` is HSMF * (1 + g * (G - 1)) with a learned g per class in
    (0, 1), so that g = 1 is the product and g = 0 ignores the class attention; ``log`` is HSMF + t * up(log(N * GCA))
    with a learned t > 0 per class, so that more attention to a class always speaks for it. In a product it speaks
    against the class wherever HSMF is negative.
    """

    def __init__(self, kind: str, num_classes: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gated":
            self.gate = nn.Parameter(torch.zeros(1, num_classes, 1, 1))
        if kind == "log":
            self.log_sharpness = nn.Parameter(torch.full((1, num_classes, 1, 1), SHARPNESS).log())

    def evidence(self, gca: Tensor) -> Tensor:
        """What the attention says by itself, B x C x h x w: the sharpened log(N * GCA), 0 where it is flat."""
        patches = gca.shape[-2] * gca.shape[-1]
        wide = gca.to(torch.promote_types(gca.dtype, torch.float32))
        evidence = (wide * patches).clamp(min=FLOOR).log()
        return evidence * self.log_sharpness.exp() if self.kind == "log" else evidence * SHARPNESS

    def forward(self, hsmf: Tensor, gca: Tensor) -> Tensor:
        """HSMF B x C x 4h x 4w, GCA B x C x h x w -> logits B x C x 4h x 4w."""
        if self.kind == "log":
            return hsmf + _to_cells(self.evidence(gca))
        attention = _to_cells(gca * (gca.shape[-2] * gca.shape[-1]))
        if self.kind == "sum":
            return hsmf + attention
        if self.kind == "gated":
            return hsmf * (1 + self.gate.sigmoid() * (attention - 1))
        return hsmf * attention


def _to_cells(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=float(CELLS), mode="bilinear", align_corners=False)
