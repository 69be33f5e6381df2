"""Training crops: position, geometry and colours.

Every crop is a function of (seed, number): a resumed run, or one with more worker processes, sees the same crops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from emra_deploy.model_file.classes import IGNORE
from emra_deploy.pictures.windows import Window
from training.data import Tile


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the random changes; 0, or equal bounds, disables one.

    Attributes:
        flip: Mirror half of the crops.
        quarter_turns: Turn by a random multiple of 90 degrees.
        rotate: Turn half of the crops by up to this many degrees more, 0 to 45.
        scale: Zoom, log-uniform between the two; 2 shows half the ground at twice the size.
        brightness: Factor 1 +- this.
        contrast: Likewise, about the crop's mean.
        saturation: Likewise, about its grey.
        tint: Likewise, independently for each channel.
        gamma: Exponent exp(+- this).
        cutmix: Probability that a batch swaps one rectangle among its crops.
    """

    flip: bool = True
    quarter_turns: bool = True
    rotate: float = 45.0
    scale: tuple[float, float] = (0.5, 2.0)
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    tint: float = 0.08
    gamma: float = 0.3
    cutmix: float = 0.5


def random_crop(
    tile: Tile, size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Cut one crop, scaled, turned and mirrored, in a single resampling.

    Only the window that the crop touches is read. Pixels outside the tile are grey and carry no label.

    Args:
        tile: Source of the crop.
        size: Side of the crop, pixels.
        config: Ranges of the changes.
        rng: Source of the random numbers.

    Returns:
        uint8 size x size x 3, and uint8 size x size.
    """
    zoom = math.exp(rng.uniform(math.log(config.scale[0]), math.log(config.scale[1])))
    angle = rng.uniform(-config.rotate, config.rotate) if rng.random() < 0.5 else 0.0
    angle += 90.0 * (rng.integers(4) if config.quarter_turns else 0)
    mirror = -1.0 if config.flip and rng.random() < 0.5 else 1.0
    extent = size / zoom
    # Centres keep an unturned crop inside the tile, where the tile is large enough for that.
    cy, cx = (
        rng.uniform(min(extent / 2, side / 2), max(side - extent / 2, side / 2)) for side in (tile.height, tile.width)
    )
    cos, sin = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
    if zoom == 1 and angle % 90 == 0:
        # No resampling is needed: an offset of half a pixel would only blur the picture.
        cy, cx = (math.floor(centre - size / 2) + size / 2 for centre in (cy, cx))
        cos, sin = float(round(cos)), float(round(sin))
    reach = math.ceil(extent / 2 * (abs(cos) + abs(sin)) * zoom) + 2
    top, left = max(0, int(cy) - reach), max(0, int(cx) - reach)
    window = Window(top, left, min(tile.height, int(cy) + reach) - top, min(tile.width, int(cx) + reach) - left)
    # Output pixel (x, y) comes from (a x + b y + c, d x + e y + f) of the window.
    a, b, d, e = cos * mirror, -sin, sin * mirror, cos
    c = cx - left - (a + b) * size / 2
    f = cy - top - (d + e) * size / 2
    picture = _transform(tile.read_image(window), size, (a, b, c, d, e, f), Image.Resampling.BILINEAR, (128, 128, 128))
    labels = _transform(tile.read_labels(window), size, (a, b, c, d, e, f), Image.Resampling.NEAREST, IGNORE)
    return picture, labels


def _transform(
    array: npt.NDArray[Any],
    size: int,
    matrix: tuple[float, ...],
    resampling: Image.Resampling,
    fill: int | tuple[int, int, int],
) -> npt.NDArray[Any]:
    # Image.transform samples single points, which aliases below half size: box-filter the source first.
    picture = Image.fromarray(array)
    shrink = int(math.hypot(matrix[0], matrix[3]))
    if shrink > 1 and resampling is Image.Resampling.BILINEAR:
        picture = picture.reduce(shrink)
        matrix = tuple(value / shrink for value in matrix)
    return np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix, resampling, fillcolor=fill))


def jitter_colours(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Vary light and sensor of each crop independently.

    Args:
        images: float B x 3 x H x W, [0, 1].
        config: Ranges.
        generator: On the same device as ``images``.

    Returns:
        float B x 3 x H x W, [0, 1].
    """
    batch = images.shape[0]

    def factor(amount: float, channels: int = 1) -> Tensor:
        draw = torch.rand(batch, channels, 1, 1, generator=generator, device=images.device)
        return 1 + (draw * 2 - 1) * amount

    images = images * factor(config.brightness)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * factor(config.contrast) + mean
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * factor(config.saturation)
    images = images * factor(config.tint, channels=3)
    return images.clamp(0, 1) ** torch.exp(factor(config.gamma) - 1)


def cutmix(images: Tensor, labels: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Swap one random rectangle among the crops of a batch, labels with it (CutMix, ICCV 2019, for segmentation).

    Args:
        images: B x 3 x H x W.
        labels: B x H x W.
        probability: Probability of a swap.
        generator: On the CPU.

    Returns:
        Both, mixed or unchanged.
    """
    height, width = labels.shape[-2:]
    draw = torch.rand(5, generator=generator)
    order = torch.randperm(images.shape[0], generator=generator)
    if draw[0] >= probability or images.shape[0] < 2:
        return images, labels
    h, w = int(height * (0.25 + 0.5 * draw[1])), int(width * (0.25 + 0.5 * draw[2]))
    top, left = int((height - h) * draw[3]), int((width - w) * draw[4])
    box = (..., slice(top, top + h), slice(left, left + w))
    order = order.to(images.device)
    images, labels = images.clone(), labels.clone()
    images[box], labels[box] = images[order][box], labels[order][box]
    return images, labels
