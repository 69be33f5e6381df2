"""The training loss and its class weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emra_deploy.classes import IGNORE
from training.data import Tile
from training.model import Parts
from training.recipe import LossConfig


def class_weights(tiles: Iterable[Tile], num_classes: int, config: LossConfig) -> Tensor | None:
    """Weights of the classes, mean 1, or None for equal ones.

    The effective number of n samples is (1 - b**n) / (1 - b) with b = 1 - 1/N (Cui et al., CVPR 2019). Pixels of one
    region say the same, so n counts 16 x 16 patches' worth of pixels and N = 10,000.

    Args:
        tiles: Whose labels are counted, all of them.
        num_classes: C.
        config: Says whether and how strongly.

    Returns:
        float32, C; a class that never occurs gets the weight 1.
    """
    if config.balance == "none":
        return None
    counts = np.zeros(num_classes, dtype=np.int64)
    for tile in tiles:
        labels = tile.read_labels()
        counts += np.bincount(labels[labels != IGNORE], minlength=num_classes)[:num_classes]
    beta = 1 - 1e-4
    effective = (1 - beta ** (counts / 256)) / (1 - beta)
    seen = counts > 0
    weights = np.ones(num_classes)
    weights[seen] = (1 / effective[seen]) ** config.balance_power
    weights[seen] /= weights[seen].mean()
    return torch.from_numpy(weights.astype(np.float32))


def segmentation_loss(parts: Parts, labels: Tensor, weights: Tensor | None, config: LossConfig) -> Tensor:
    """Cross-entropy of the fused logits, upsampled to the labels, plus that of HSMF where the recipe asks for it.

    Args:
        parts: Maps at a quarter of the labels' size.
        labels: uint8 B x H x W; 255 does not count.
        weights: Of the classes, or None.
        config: The recipe's.

    Returns:
        A scalar; 0 where no pixel is labelled.
    """
    labels = labels.long()
    total = _cross_entropy(parts.logits, labels, weights, config.label_smoothing)
    if config.hsmf_weight:
        total = total + config.hsmf_weight * _cross_entropy(parts.hsmf, labels, weights, config.label_smoothing)
    return total


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    # A sum over a count that is at least 1: the mean over no pixels is NaN, and one empty batch would end the run.
    total = F.cross_entropy(
        logits, labels, weight=weights, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum"
    )
    valid = labels != IGNORE
    count = valid.sum() if weights is None else weights[labels[valid]].sum()
    return total / count.clamp(min=1)
