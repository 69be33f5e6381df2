"""Checkpoints of untrained models, for timing sizes that nobody has trained: time does not depend on the weights."""

from __future__ import annotations

from pathlib import Path

import torch

from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES
from training.model import EMRAConfig, EMRAProxy

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_random_checkpoint(folder: Path, backbone: str, size: int) -> None:
    """Write one.

    Args:
        folder: Made if absent.
        backbone: Of `training.model.BACKBONES`.
        size: Side of its pictures, pixels.
    """
    torch.manual_seed(0)
    classes = DUBAI_CLASSES
    model = EMRAProxy(EMRAConfig(backbone, num_classes=len(classes), image_size=(size, size)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        # Exports compare labels, and those of random logits are ties that any rounding decides: one class is ahead.
        model.hra.classifier.bias[0] += 3
    save_checkpoint(folder, model.eval(), classes, _MEAN, _STD, {"weights": "random"})
