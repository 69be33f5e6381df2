"""Random checkpoints, small and full-sized, for tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch

from training.checkpoint import save_checkpoint
from training.data.scenes import DUBAI_CLASSES
from training.model import BACKBONES, EMRAConfig, EMRAProxy
from training.model.config import Backbone

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_model(**config: object) -> EMRAProxy:
    """Weights large enough that the labels vary over a picture."""
    torch.manual_seed(3)
    model = EMRAProxy(EMRAConfig(**{"num_classes": 5, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@contextmanager
def narrow_backbone() -> Iterator[None]:
    """Four blocks of width 64 in place of ViT-Ti: the same code in a fraction of the time."""
    narrow = functools.partial(timm.create_model, depth=4, embed_dim=64, num_heads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", narrow)
        patch.setitem(BACKBONES, "tiny", Backbone("vit_tiny_patch16_224", 64, 4, 2))
        yield


@pytest.fixture
def small_backbone() -> Iterator[None]:
    """`narrow_backbone` around a test."""
    with narrow_backbone():
        yield


@pytest.fixture
def small_checkpoint(small_backbone: None, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, random_model(image_size=(64, 64)), DUBAI_CLASSES, MEAN, STD, {"gsd": 0.5})
    return folder
