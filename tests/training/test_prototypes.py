"""Class tokens that start as the mean patch of their class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.checkpoints import random_model, small_backbone
from tests.training.array_tiles import COLOURS, tile_of
from training.prototypes import start_from_prototypes

__all__ = ["small_backbone"]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.mark.usefixtures("small_backbone")
@pytest.mark.parametrize("zoom", [1, 2])
def test_a_token_is_the_mean_patch_of_its_class(zoom: int) -> None:
    model = random_model(image_size=(32, 32), zoom=zoom)
    before = (model.backbone.class_tokens + model.backbone.class_positions).detach().clone()
    # Whole patches of classes 0, 1 and 4, each in its colour; half a patch of class 2; none of class 3.
    side = 16 // zoom
    labels = np.kron(np.array([[0, 1], [4, 0]], np.uint8), np.ones((2 * side, 2 * side), np.uint8))
    labels[: side // 2, : side // 2] = 2
    start_from_prototypes(model, [tile_of(labels, COLOURS[np.where(labels == 2, 0, labels)])], MEAN, STD)
    tokens = (model.backbone.class_tokens + model.backbone.class_positions).detach()
    for label in (0, 1, 4):
        flat = torch.from_numpy(COLOURS[label].astype(np.float32) / 255)
        patch = ((flat - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1).expand(1, 3, 16, 16)
        weight, bias = model.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.bias
        expected = F.conv2d(patch, weight, bias).flatten() + model.backbone.patch_positions[0].mean(dim=0)
        if zoom == 1:  # enlarged, the colours of neighbours run into each other
            torch.testing.assert_close(tokens[0, label], expected.detach(), rtol=1e-4, atol=1e-4)
        others = [(tokens[0, other] - expected).norm() for other in range(5)]
        assert int(torch.stack(others).argmin()) == label
    torch.testing.assert_close(tokens[0, 2:4], before[0, 2:4])
