"""MCA-proxy: what each class token attends to, spread over patches by the attention between patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from training.model.aggregation import aggregate_explicit, aggregate_streamed
from training.model.operator import attention_aggregation


def aggregate_plugin(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    """GCA by the operator `emra::attention_aggregation`; FP32 whatever the inputs are (FP64 for FP64).

    Args, returns: as `aggregate_explicit`.
    """
    gca: Tensor = attention_aggregation(list(qkv), num_heads, num_class_tokens, scale)
    return gca


AGGREGATE = {"explicit": aggregate_explicit, "streamed": aggregate_streamed, "plugin": aggregate_plugin}


class MCA(nn.Module):
    """Class attention maps from the packed qkv of the last P blocks; it has no weights of its own."""

    def __init__(self, num_heads: int, num_class_tokens: int, scale: float, aggregation: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_class_tokens = num_class_tokens
        self.scale = scale
        self.aggregation = aggregation

    def forward(self, qkv: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """P tensors B x T x 3D -> GCA, B x C x h x w, where h, w = grid. Its mean over a flat attention is 1 / N."""
        gca = AGGREGATE[self.aggregation](qkv, self.num_heads, self.num_class_tokens, self.scale)
        return gca.reshape(gca.shape[0], gca.shape[1], *grid)
