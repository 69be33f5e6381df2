"""Attention aggregation, GCA, in its two PyTorch forms; `operator` has the third.

With A(l, n) = softmax(Q K^T * scale), T x T, of block l and head n, over the last P blocks (arXiv 2505.17665; the idea
is MCTformer's, CVPR 2022):

    c2p = mean over l, n of A[:C, C:]                 C x N
    GCA = mean over l, n of A[C:, C:] @ c2p^T         N x C
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def split_qk(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Queries and keys of a packed qkv tensor, without copying.

    Args:
        qkv: B x T x 3D, as the qkv linear wrote it: q, k, v one after the other, each heads x width.
        num_heads: Heads; D is a multiple of it.

    Returns:
        Two views, B x heads x T x (D / heads).
    """
    batch, tokens, packed = qkv.shape
    q, k, _ = qkv.view(batch, tokens, 3, num_heads, packed // (3 * num_heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k


def aggregate_explicit(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    """GCA by the formula: P * heads * T * T attention values exist at once per block. The reference.

    Args:
        qkv: P tensors, B x T x 3D.
        num_heads: Heads per block.
        num_class_tokens: C; the first C of the T tokens.
        scale: Factor on Q K^T.

    Returns:
        GCA, B x C x N, non-negative.
    """
    attention = None
    for packed in qkv:
        q, k = split_qk(packed, num_heads)
        mean = (q @ k.transpose(-2, -1) * scale).softmax(dim=-1).mean(dim=1)
        attention = mean if attention is None else attention + mean
    assert attention is not None
    attention = attention / len(qkv)
    c2p = attention[:, :num_class_tokens, num_class_tokens:]
    return c2p @ attention[:, num_class_tokens:, num_class_tokens:].transpose(1, 2)


def aggregate_streamed(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    """GCA in O(T) memory: class rows alone, then ordinary fused attention whose values are c2p^T.

    Attention's output is linear in its values, so A[C:, C:] @ c2p^T is what attention returns for patch queries when
    the values are c2p^T at patches and zero at class tokens. They are padded to the head width, which fused kernels
    expect.

    Args, returns: as `aggregate_explicit`.
    """
    c = num_class_tokens
    heads = [split_qk(packed, num_heads) for packed in qkv]
    rows = [(q[:, :, :c] @ k.transpose(-2, -1) * scale).softmax(dim=-1).mean(dim=1) for q, k in heads]
    c2p = torch.stack(rows).mean(dim=0)[:, :, c:]
    width = max(heads[0][0].shape[-1], c)
    values = F.pad(c2p.transpose(1, 2), (0, width - c, c, 0)).unsqueeze(1).expand(-1, num_heads, -1, -1)
    spread = [
        F.scaled_dot_product_attention(q[:, :, c:], k, values.to(q.dtype), scale=scale)[..., :c].mean(dim=1)
        for q, k in heads
    ]
    return torch.stack(spread).mean(dim=0).transpose(1, 2)
