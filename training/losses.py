"""The training loss and its class weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emra_deploy.model_file.classes import IGNORE
from training.data import Tile
from training.model import Parts
from training.recipe import LossConfig

CONTRAST_TEMPERATURE = 0.2
"""Cosines are divided by this: with 5 classes, tokens at right angles have a loss of 0.03."""


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
    logits = _upsample(parts.logits, labels)
    total = _cross_entropy(logits, labels, weights, config.label_smoothing)
    if config.hsmf_weight:
        hsmf = _upsample(parts.hsmf, labels)
        total = total + config.hsmf_weight * _cross_entropy(hsmf, labels, weights, config.label_smoothing)
    if config.jaccard_weight:
        total = total + config.jaccard_weight * soft_jaccard(logits, labels)
    if config.attention_weight:
        evidence = _upsample(parts.evidence, labels)
        total = total + config.attention_weight * _cross_entropy(evidence, labels, weights, config.label_smoothing)
    if config.presence_weight:
        total = total + config.presence_weight * presence_loss(parts.named, labels)
    if config.contrast_weight:
        total = total + config.contrast_weight * contrast_loss(parts.tokens)
    return total


def presence_loss(named: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each class token's own region logit: is there any pixel of the class in the crop?

    The multi-label loss of MCTformer (CVPR 2022), with the region classifier as the readout: the token of a class
    that is there has to look like a patch of it.

    Args:
        named: B x C x C, the region logits of each class token.
        labels: int64 B x H x W; 255 does not count.

    Returns:
        A scalar.
    """
    own = named.float().diagonal(dim1=1, dim2=2)
    shown = (labels[:, None] == torch.arange(own.shape[1], device=labels.device)[:, None, None]).flatten(2).any(dim=2)
    return F.binary_cross_entropy_with_logits(own, shown.float())


def contrast_loss(tokens: Tensor) -> Tensor:
    """Cross-entropy of the cosines between the class tokens of a crop: each is to be most like itself.

    MCTformer+'s contrast between class tokens (TPAMI 2024).

    Args:
        tokens: B x C x D.

    Returns:
        A scalar.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.transpose(1, 2) / CONTRAST_TEMPERATURE
    return F.cross_entropy(
        cosines.flatten(0, 1), torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens))
    )


def soft_jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the IoU of probabilities and labels over the whole batch, mean over the classes in its labels.

    The IoU of Rahman and Wang (ISVC 2016): sum(p * y) / sum(p + y - p * y). Over the batch, not per crop, as mIoU is
    counted over all pictures: a class that a single crop shows by three pixels should not weigh as one that fills it.

    Args:
        logits: float B x C x H x W.
        labels: int64 B x H x W; 255 does not count.

    Returns:
        A scalar in [0, 1]; 0 where no pixel is labelled.
    """
    valid = labels != IGNORE
    truth = F.one_hot(labels.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid.unsqueeze(1)
    probability = logits.softmax(dim=1) * valid.unsqueeze(1)
    both = (probability * truth).sum(dim=(0, 2, 3))
    pixels = truth.sum(dim=(0, 2, 3))
    either = probability.sum(dim=(0, 2, 3)) + pixels - both
    shown = pixels > 0
    return ((1 - both / either.clamp(min=1)) * shown).sum() / shown.sum().clamp(min=1)


def _upsample(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    # A sum over a count that is at least 1: the mean over no pixels is NaN, and one empty batch would end the run.
    total = F.cross_entropy(
        logits, labels, weight=weights, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum"
    )
    valid = labels != IGNORE
    count = valid.sum() if weights is None else weights[labels[valid]].sum()
    return total / count.clamp(min=1)
