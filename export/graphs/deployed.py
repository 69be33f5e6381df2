"""The deployed form of a trained EMRA-proxy, which `to_onnx` traces.

It holds the weights of `training.model.EMRAProxy` and computes the same values, in a form that compilers of devices
handle well: no shape is computed at run time, the batch appears in a reshape only as -1, class tokens join the sequence
by padding instead of a broadcast copy, and attention is plain MatMul and Softmax. `export.compare.verify` measures the
agreement of the two for every file that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.model import EMRAProxy
from training.model.config import CELLS, PATCH
from training.model.emra import enlarge
from training.model.hra import NEIGHBOURS, border_bias
from training.model.operator import attention_aggregation

HEADS = ("classes", "logits", "confidence")
"""Outputs a deployed model may have, in the order in which they are written."""

HALF_FROM_BYTES = 1024
"""With half-precision weights, tensors up to this many FP32 bytes stay FP32: they save nothing, and biases matter."""


def round_weights(model: EMRAProxy) -> None:
    """Round, in place, every weight that is stored as FP16, so that PyTorch computes with the weights of the file.

    The class tokens only ever appear as the sum with their positions, which the deployed graph stores as one table;
    that sum is formed first, or it would be rounded twice.
    """
    backbone = model.backbone
    with torch.no_grad():
        backbone.class_positions.add_(backbone.class_tokens)
        backbone.class_tokens.zero_()
        for weight in model.parameters():
            if weight.ndim > 1 and weight.numel() * 4 > HALF_FROM_BYTES:
                weight.copy_(weight.half().float())


class Deployed(nn.Module):
    """Image in, labels out: normalisation, the network, upsampling and argmax in one graph.

    Args:
        model: In evaluation mode; its own image size becomes the fixed input size.
        mean: Of red, green and blue scaled to 0..1.
        std: Of the same.
        input_kind: ``"uint8"``, B x H x W x 3 RGB, or ``"float"``, B x 3 x H x W already normalised.
        heads: Outputs, some of `HEADS`; they come in the order of `HEADS`.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor
    table: Tensor
    shifts: Tensor
    outside: Tensor

    def __init__(
        self,
        model: EMRAProxy,
        mean: Sequence[float],
        std: Sequence[float],
        input_kind: str = "uint8",
        heads: Sequence[str] = ("classes",),
    ) -> None:
        super().__init__()
        self.model = model
        self.input_kind = input_kind
        self.heads = tuple(head for head in HEADS if head in heads)
        self.grid = model.config.grid
        backbone = model.backbone
        spread = torch.tensor(std, dtype=torch.float64)
        middle = torch.tensor(mean, dtype=torch.float64)
        self.register_buffer("pixel_scale", (1 / (255 * spread)).float())
        self.register_buffer("pixel_shift", (-middle / spread).float())
        classes = backbone.class_tokens + backbone.class_positions
        self.register_buffer("table", torch.cat([classes, backbone.patch_positions], dim=1).detach())
        weight = torch.zeros(len(NEIGHBOURS), 1, 3, 3)
        for index, (dy, dx) in enumerate(NEIGHBOURS):
            weight[index, 0, 1 + dy, 1 + dx] = 1
        self.register_buffer("shifts", weight)
        bias = border_bias(self.grid, weight.device, weight.dtype)
        self.register_buffer("outside", bias.view(1, len(NEIGHBOURS), 1, self.grid[0] * self.grid[1]))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The batch in `input_kind`'s layout -> one tensor per head.

        classes is uint8 B x H x W; logits float32 B x C x H x W; confidence, the softmax share of the winning class,
        float32 B x H x W.
        """
        if self.input_kind == "uint8":
            # The cast comes first: TensorRT takes bytes from an input into a Cast and nowhere else.
            image = (image.to(torch.float32) * self.pixel_scale + self.pixel_shift).permute(0, 3, 1, 2)
        zoom = self.model.config.zoom
        logits = enlarge(self.quarter_logits(enlarge(image, zoom)), PATCH // CELLS // zoom)
        outputs = []
        if "classes" in self.heads:
            outputs.append(logits.argmax(dim=1).to(torch.uint8))
        if "logits" in self.heads:
            outputs.append(logits)
        if "confidence" in self.heads:
            outputs.append(logits.softmax(dim=1).amax(dim=1))
        return tuple(outputs)

    def quarter_logits(self, image: Tensor) -> Tensor:
        """B x 3 x H x W, normalised and enlarged -> B x C x H/4 x W/4."""
        model = self.model
        backbone: Any = model.backbone  # It holds timm's modules, which have no types.
        c = model.config.num_classes
        patches = backbone.patch_embed.proj(image).flatten(2).transpose(1, 2)
        # The class rows are the same for every image: zeros plus the table, where a concatenation would need the batch.
        x = F.pad(patches, (0, 0, c, 0)) + self.table
        early = x[:, c:]
        aggregation = AGGREGATION[model.config.aggregation](self)
        first = len(backbone.blocks) - backbone.mca_blocks
        for number, block in enumerate(backbone.blocks, start=1):
            x = self.block(block, x, aggregation if number > first else None)
            if number == backbone.hra_block:
                early = x[:, c:]
        hsmf = self.hsmf(early, backbone.norm(x)[:, c:])
        if not backbone.mca_blocks:
            return hsmf
        gca = aggregation.result().reshape(-1, c, *self.grid)
        logits: Tensor = model.fusion(hsmf, gca)
        return logits

    def block(self, block: Any, x: Tensor, aggregation: Aggregation | None) -> Tensor:
        """One of timm's transformer blocks, B x T x D -> B x T x D; its attention is added to the aggregation."""
        attention = block.attn
        tokens, width = x.shape[1], x.shape[2]
        heads, head_width = attention.num_heads, attention.head_dim
        packed = attention.qkv(block.norm1(x))
        q, k, v = (part.reshape(-1, tokens, heads, head_width) for part in packed.split(width, dim=-1))
        q = q.transpose(1, 2) * attention.scale
        k = k.permute(0, 2, 3, 1)
        share = (q @ k).softmax(dim=-1)
        if aggregation is not None:
            aggregation.add(BlockAttention(packed, q, k, share))
        attended = (share @ v.transpose(1, 2)).transpose(1, 2).reshape(-1, tokens, width)
        x = x + block.ls1(attention.proj(attended))
        x = x + block.ls2(block.mlp(block.norm2(x)))
        return x

    def hsmf(self, early: Tensor, final: Tensor) -> Tensor:
        """Early and final patch tokens, B x N x D -> HSMF, B x C x 4h x 4w."""
        hra = self.model.hra
        h, w = self.grid
        c = self.model.config.num_classes
        x = hra.norm(early).transpose(1, 2).reshape(-1, early.shape[2], h, w)
        x = F.gelu(hra.pointwise(F.gelu(hra.depthwise(x))))
        affinity = hra.affinity(x).reshape(-1, len(NEIGHBOURS), CELLS * CELLS, h * w)
        affinity = (affinity + self.outside).softmax(dim=1)
        regions = hra.classifier(final).transpose(1, 2).reshape(-1, c, h, w)
        # The nine shifted copies of every class map in one convolution with one-hot kernels: exact in any precision.
        near = F.conv2d(regions, self.shifts.repeat(c, 1, 1, 1), padding=1, groups=c)
        near = near.reshape(-1, c, len(NEIGHBOURS), h * w)
        mixed = affinity.permute(0, 3, 2, 1) @ near.permute(0, 3, 2, 1)
        cells = mixed.permute(0, 3, 2, 1).reshape(-1, c * CELLS * CELLS, h, w)
        return F.pixel_shuffle(cells, CELLS)


class BlockAttention(NamedTuple):
    """The attention of one block, as the aggregation reads it.

    Attributes:
        packed: Output of the qkv linear, B x T x 3D.
        q: Queries times the scale, B x heads x T x d.
        k: Keys, B x heads x d x T.
        share: softmax(q k), B x heads x T x T.
    """

    packed: Tensor
    q: Tensor
    k: Tensor
    share: Tensor


class Aggregation(Protocol):
    """Global class attention (GCA) of the last P blocks, traced once for each export."""

    def add(self, block: BlockAttention) -> None:
        """Add one of the last P blocks, oldest first."""
        ...

    def result(self) -> Tensor:
        """GCA, B x C x N."""
        ...


class StreamedAggregation:
    """GCA in O(T) memory: class rows, then ordinary attention whose values are c2p^T."""

    def __init__(self, deployed: Deployed) -> None:
        self.classes = deployed.model.config.num_classes
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.rows: Tensor | None = None

    def add(self, block: BlockAttention) -> None:
        """Add the block's class rows; keep its queries and keys."""
        # Not cut out of the block's ``share``: a second reader of it would keep TensorRT from fusing the attention.
        rows = (block.q[:, :, : self.classes] @ block.k).softmax(dim=-1).mean(dim=1)
        self.rows = rows if self.rows is None else self.rows + rows
        self.seen.append((block.q, block.k))

    def result(self) -> Tensor:
        """GCA, B x C x N."""
        assert self.rows is not None
        c = self.classes
        c2p = self.rows[:, :, c:] / len(self.seen)
        width = max(self.seen[0][0].shape[-1], c)
        values = F.pad(c2p.transpose(1, 2), (0, width - c, c, 0)).unsqueeze(1)
        total: Tensor | None = None
        for q, k in self.seen:
            spread = ((q[:, :, c:] @ k).softmax(dim=-1) @ values).mean(dim=1)
            total = spread if total is None else total + spread
        assert total is not None
        return total[..., :c].transpose(1, 2) / len(self.seen)


class ExplicitAggregation:
    """GCA by the formula, from the attention matrices the blocks computed anyway."""

    def __init__(self, deployed: Deployed) -> None:
        self.classes = deployed.model.config.num_classes
        self.blocks = deployed.model.config.mca_blocks
        self.total: Tensor | None = None

    def add(self, block: BlockAttention) -> None:
        """Add the block's attention, averaged over heads."""
        mean = block.share.mean(dim=1)
        self.total = mean if self.total is None else self.total + mean

    def result(self) -> Tensor:
        """GCA, B x C x N."""
        assert self.total is not None
        c = self.classes
        attention = self.total / self.blocks
        return attention[:, :c, c:] @ attention[:, c:, c:].transpose(1, 2)


class PluginAggregation:
    """GCA by one operator over the packed qkv: a node that TensorRT has a plugin for; see `function_body`."""

    def __init__(self, deployed: Deployed) -> None:
        self.classes = deployed.model.config.num_classes
        self.heads = deployed.model.backbone.num_heads
        self.scale = deployed.model.backbone.scale
        self.packed: list[Tensor] = []

    def add(self, block: BlockAttention) -> None:
        """Add the block's packed qkv."""
        self.packed.append(block.packed)

    def result(self) -> Tensor:
        """GCA, B x C x N."""
        gca: Tensor = attention_aggregation(self.packed, self.heads, self.classes, self.scale)
        return gca


AGGREGATION: dict[str, Callable[[Deployed], Aggregation]] = {
    "streamed": StreamedAggregation,
    "explicit": ExplicitAggregation,
    "plugin": PluginAggregation,
}
