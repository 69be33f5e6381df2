"""What an EMRA-proxy costs, counted operator by operator on torch's meta device.

There are no weights and no arithmetic, so any size counts in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from training.model.config import CELLS, PATCH, EMRAConfig
from training.model.emra import EMRAProxy, enlarge

aten = torch.ops.aten


@dataclass(frozen=True)
class PartCost:
    """One part of the model.

    Attributes:
        name: The part.
        parameters: Values in it.
        macs: Multiply-accumulates for one image; torch's counter says twice that and calls it FLOPs.
    """

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        config: The model counted.
        parts: In the order they run.
        attention_macs: The products Q K^T and A V of the backbone, a share of its count.
    """

    config: EMRAConfig
    parts: tuple[PartCost, ...]
    attention_macs: int

    @property
    def parameters(self) -> int:
        """Values in the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole model for one image."""
        return sum(part.macs for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; a GMAC is 1e9 multiply-accumulates."""
        rows = [{"name": part.name, "parameters": part.parameters, "gmac": part.macs / 1e9} for part in self.parts]
        return {
            "config": self.config.to_dict(),
            "parts": rows,
            "total": {"parameters": self.parameters, "gmac": self.macs / 1e9},
            "backbone_attention_gmac": self.attention_macs / 1e9,
        }


def count_cost(config: EMRAConfig) -> Cost:
    """Parameters and multiply-accumulates of each part, for one image of ``config.image_size``.

    Matrix products, convolutions and attention are counted by torch's own formulas. They count the parts that
    consist of other work as nothing; so products in HRA and the fusion count one each, and a bilinear upsampling
    four per value. Norms, softmax, GELU and additions are not counted.

    `streamed` aggregation counts more than `explicit`, as it computes with values padded to the head width; in return
    it never holds a T x T attention.
    """
    with torch.device("meta"):
        model = EMRAProxy(config).eval()
        image = torch.empty(1, 3, *config.network_size)
    grid = config.grid
    with torch.no_grad():
        backbone, features = count_operators(lambda: model.backbone(image))
        hra, hsmf = count_operators(lambda: model.hra(features.early, features.final, grid), products=True)
        mca: dict[Any, int] = {}
        fusion: dict[Any, int] = {}
        logits = hsmf
        if config.mca_blocks:
            mca, gca = count_operators(lambda: model.mca(features.qkv, grid))
            fusion, logits = count_operators(lambda: model.fusion(hsmf, gca), products=True)
        up, _ = count_operators(lambda: enlarge(logits, PATCH // CELLS // config.zoom))
    parts = (
        PartCost("backbone", _parameters(model.backbone), sum(backbone.values())),
        PartCost("HRA", _parameters(model.hra), sum(hra.values())),
        PartCost("MCA", _parameters(model.mca), sum(mca.values())),
        PartCost("fusion", _parameters(model.fusion), sum(fusion.values())),
        PartCost("upsampling", 0, sum(up.values())),
    )
    # Which operator attention is depends on torch's version and device; what the rest of a ViT is does not.
    rest = (aten.convolution, aten.addmm, aten.mm)
    return Cost(config, parts, sum(macs for operator, macs in backbone.items() if operator not in rest))


def count_operators(run: Callable[[], Any], products: bool = False) -> tuple[dict[Any, int], Any]:
    """Multiply-accumulates of a computation, by operator, whatever the device and the processor.

    Args:
        run: The computation.
        products: Whether elementwise products count, one each.

    Returns:
        The count of each operator of ATen, and what ``run`` returned.
    """
    formulas: dict[Any, Callable[..., int]] = {
        aten.upsample_bilinear2d: _bilinear_flops,
        # Fused attention on processors with AVX-512; torch's table (2.14) has the operators of CUDA alone.
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    }
    if products:
        formulas[aten.mul] = _product_flops
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        result = run()
    return {operator: flops // 2 for operator, flops in counter.get_flop_counts()["Global"].items()}, result


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _bilinear_flops(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 8 * prod(out_shape)


def _product_flops(*_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * prod(out_shape)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
