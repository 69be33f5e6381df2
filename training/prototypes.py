"""Class tokens that start as the mean patch of their class, and so attend to such patches from the start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from emra_deploy.model_file.classes import IGNORE
from training.ablation import majority, windows
from training.data.base import Tile
from training.model import EMRAProxy
from training.model.emra import enlarge

PATCHES = 40_000
"""About as many patches are averaged over all classes."""


@torch.no_grad()
def start_from_prototypes(
    model: EMRAProxy, tiles: Sequence[Tile], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Set each class token, in place, to the mean patch embedding of its class plus the mean position.

    A class that no patch shows keeps its token.

    Args:
        model: On the CPU; its blocks should be trained.
        tiles: Labelled; windows spread evenly over them are read.
        mean: Of red, green and blue scaled to [0, 1].
        std: Of the same.
    """
    backbone, config = model.backbone, model.config
    total = torch.zeros_like(backbone.class_tokens[0])
    count = torch.zeros(config.num_classes)
    h, w = config.grid
    height, width = config.image_size
    there = sum(-(-tile.height // height) * -(-tile.width // width) for tile in tiles)
    for shown in islice(windows(tiles, config.image_size, halo=0), 0, None, max(1, there * h * w // PATCHES)):
        pixels = torch.from_numpy(shown.image).permute(2, 0, 1)[None].float() / 255
        pixels = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        patches = backbone.patch_embed(enlarge(pixels, config.zoom))[0]
        labels = torch.from_numpy(majority(shown.labels, (h, w), config.num_classes).reshape(-1)).long()
        known = labels != IGNORE
        total.index_add_(0, labels[known], patches[known])
        count += torch.bincount(labels[known], minlength=config.num_classes)
    seen = count > 0
    prototypes = total[seen] / count[seen, None] + backbone.patch_positions[0].mean(dim=0)
    backbone.class_positions[0, seen] = prototypes - backbone.class_tokens[0, seen]
