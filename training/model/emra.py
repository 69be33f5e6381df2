"""EMRA-proxy: the backbone, the two proxies and their fusion."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model.backbone import ClassTokenViT
from training.model.config import BACKBONES, CELLS, PATCH, EMRAConfig
from training.model.fusion import Fusion
from training.model.hra import HRA
from training.model.mca import MCA


class Parts(NamedTuple):
    """What the losses read, before the last upsampling.

    Attributes:
        hsmf: B x C x H/4 x W/4.
        gca: B x C x H/16 x W/16; 1 / N everywhere in a model without MCA.
        logits: B x C x H/4 x W/4.
        evidence: `Fusion.evidence` of GCA, B x C x H/16 x W/16.
        tokens: The class tokens after the last block, B x C x D.
        named: Region logits of the class tokens, as if each were a patch, B x C x C; in training only, else B x C x 0.
    """

    hsmf: Tensor
    gca: Tensor
    logits: Tensor
    evidence: Tensor
    tokens: Tensor
    named: Tensor


def enlarge(maps: Tensor, times: int) -> Tensor:
    """B x K x h x w -> B x K x times*h x times*w, bilinear; the same tensor for 1."""
    if times == 1:
        return maps
    return F.interpolate(maps, scale_factor=float(times), mode="bilinear", align_corners=False)


class EMRAProxy(nn.Module):
    """Segmentation of aerial images by region geometry (HRA) and class attention (MCA) over a plain ViT.

    Args:
        config: Shape of the model.
        drop_path: Largest stochastic depth rate, 0 to 1, rising over the blocks; acts in training only.
    """

    def __init__(self, config: EMRAConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.backbone = ClassTokenViT(config, drop_path)
        self.hra = HRA(BACKBONES[config.backbone].width, config.num_classes)
        self.mca = MCA(self.backbone.num_heads, config.num_classes, self.backbone.scale, config.aggregation)
        # Nothing is fused without MCA, and a weight that nothing trains stops training by several processes.
        self.fusion = Fusion(config.fusion if config.mca_blocks else "product", config.num_classes)

    def forward_parts(self, image: Tensor) -> Parts:
        """B x 3 x H x W, normalised and already enlarged by ``config.zoom`` -> the maps before the last upsampling.

        Training reads its loss from here: its crops are enlarged while they are cut.
        """
        grid = (image.shape[-2] // PATCH, image.shape[-1] // PATCH)
        features = self.backbone(image)
        hsmf = self.hra(features.early, features.final, grid)
        tokens = features.classes
        named = self.hra.classifier(tokens) if self.training else tokens[..., :0]
        if not features.qkv:
            nothing = torch.zeros_like(hsmf[:, :, ::CELLS, ::CELLS])
            return Parts(hsmf, nothing + 1 / (grid[0] * grid[1]), hsmf, nothing, tokens, named)
        gca = self.mca(features.qkv, grid)
        return Parts(hsmf, gca, self.fusion(hsmf, gca), self.fusion.evidence(gca), tokens, named)

    def forward(self, image: Tensor) -> Tensor:
        """Logits per pixel.

        Args:
            image: B x 3 x H x W, float, normalised by the checkpoint's mean and standard deviation. H and W times
                ``config.zoom`` are multiples of 16; other sizes than ``config.image_size`` resample the position table.

        Returns:
            B x C x H x W.
        """
        zoom = self.config.zoom
        logits = self.forward_parts(enlarge(image, zoom)).logits
        return enlarge(logits, PATCH // CELLS // zoom)

    def set_image_size(self, height: int, width: int, zoom: int | None = None) -> None:
        """Resample the position table, in place, so that H x W becomes the model's own size.

        Args:
            height: H, pixels.
            width: W, pixels.
            zoom: 1, 2 or 4; None keeps the model's.

        Raises:
            EmraError: A side times the zoom is not a positive multiple of 16.
        """
        self.config = replace(self.config, image_size=(height, width), zoom=self.config.zoom if zoom is None else zoom)
        self.backbone.set_grid(self.config.grid)

    def leave_mca_out(self) -> None:
        """Make HSMF the logits: what every fusion but ``sum`` gives where the attention is flat."""
        self.config = replace(self.config, mca_blocks=0)
        self.backbone.mca_blocks = 0
        self.fusion = Fusion("product", self.config.num_classes)

    def set_aggregation(self, aggregation: str) -> None:
        """Change how GCA is computed; the result is the same."""
        self.config = replace(self.config, aggregation=aggregation)
        self.mca.aggregation = aggregation
