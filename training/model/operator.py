"""`emra::attention_aggregation`, the third form of GCA: one operator over the packed qkv tensors.

It is what `aggregation="plugin"` calls, and what an exported graph shows as one node. On CUDA it calls the kernels of
`plugin/`; on the CPU, and where the kernels are not at hand, it computes the streamed form (`aggregation`).
Its gradient is that of the streamed form, computed again from qkv, so that nothing of size T x T or N x heads is kept
between the passes and every implementation of the forward pass has the same gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from training.model import kernels
from training.model.aggregation import aggregate_streamed

NAME = "emra::attention_aggregation"


def result_type(dtype: torch.dtype) -> torch.dtype:
    """FP32 for everything up to FP32; FP64 stays, for the sake of gradient checks."""
    return torch.promote_types(dtype, torch.float32)


def check_arguments(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int) -> tuple[int, int]:
    """Refuse what no implementation could read.

    Returns:
        B and T.

    Raises:
        ValueError: No tensors; tensors that are not all B x T x 3D of one floating type on one device; a width that is
            no multiple of 3 * num_heads; T not above num_class_tokens.
    """
    if not qkv:
        raise ValueError("attention_aggregation takes at least one packed qkv tensor, got none")
    first = qkv[0]
    if first.dim() != 3 or not first.is_floating_point():
        raise ValueError(f"packed qkv is {first.dtype} with {first.dim()} dimensions, expected floating B x T x 3D")
    batch, tokens, packed = first.shape
    for other in qkv[1:]:
        if other.shape != first.shape or other.dtype != first.dtype or other.device != first.device:
            raise ValueError(
                f"packed qkv tensors differ: {tuple(other.shape)} {other.dtype} on {other.device}, "
                f"and {tuple(first.shape)} {first.dtype} on {first.device}"
            )
    if num_heads < 1 or packed < 1 or packed % (3 * num_heads):
        raise ValueError(f"packed qkv is {packed} wide, expected a multiple of 3 * {num_heads} heads")
    if num_class_tokens < 1 or tokens <= num_class_tokens:
        raise ValueError(f"{num_class_tokens} class tokens of {tokens} tokens, expected at least 1 and 1 patch more")
    return batch, tokens


def _streamed(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    # Autocast would take the sums of half-precision attention back to half precision.
    with torch.autocast(qkv[0].device.type, enabled=False):
        wide = [packed.to(result_type(packed.dtype)) for packed in qkv]
        return aggregate_streamed(wide, num_heads, num_class_tokens, scale)


def _in_pytorch(qkv: Sequence[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    # Not `contiguous`, which leaves the strides of sides of length 1 as they are, where compiled code expects others.
    return _streamed(qkv, num_heads, num_class_tokens, scale).clone(memory_format=torch.contiguous_format)


@torch.library.custom_op(NAME, mutates_args=())
def attention_aggregation(qkv: list[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    """GCA of the last P blocks.

    Args:
        qkv: P tensors, B x T x 3D, as the qkv linears wrote them; one floating type and device.
        num_heads: Heads per block.
        num_class_tokens: C; the first C of the T tokens.
        scale: Factor on Q K^T.

    Returns:
        GCA, B x C x N with N = T - C, contiguous; FP32 (FP64 for FP64 inputs).

    Raises:
        ValueError: See `check_arguments`.
    """
    check_arguments(qkv, num_heads, num_class_tokens)
    return _in_pytorch(qkv, num_heads, num_class_tokens, scale)


@attention_aggregation.register_kernel("cuda")
def _(qkv: list[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    check_arguments(qkv, num_heads, num_class_tokens)
    found = kernels.aggregate(qkv, num_heads, num_class_tokens, scale)
    return _in_pytorch(qkv, num_heads, num_class_tokens, scale) if found is None else found


@attention_aggregation.register_fake
def _(qkv: list[Tensor], num_heads: int, num_class_tokens: int, scale: float) -> Tensor:
    batch, tokens = check_arguments(qkv, num_heads, num_class_tokens)
    shape = (batch, num_class_tokens, tokens - num_class_tokens)
    return qkv[0].new_empty(shape, dtype=result_type(qkv[0].dtype))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, ctx.num_heads, ctx.num_class_tokens, ctx.scale = inputs
    ctx.save_for_backward(*qkv)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view for each place, so that a tensor given twice has two gradients, which autograd adds.
        views = [packed.view_as(packed) if packed.requires_grad else packed for packed in saved]
        wanted = [view for view in views if view.requires_grad]
        gca = _streamed(views, ctx.num_heads, ctx.num_class_tokens, ctx.scale)
    found = iter(torch.autograd.grad(gca, wanted, gradient, create_graph=again) if wanted else ())
    return [next(found) if view.requires_grad else None for view in views], None, None, None


attention_aggregation.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.emra.attention_aggregation)
def _flops(qkv: Sequence[Sequence[int]], num_heads: int, num_class_tokens: int, *_: Any, **__: Any) -> int:
    """Of the two passes over the tokens: Q K^T of every row, and A V of the patches' rows, with V as wide as C."""
    batch, tokens, packed = qkv[0]
    scores = tokens * tokens * (packed // 3)
    values = (tokens - num_class_tokens) * tokens * num_class_tokens * num_heads
    return 2 * batch * len(qkv) * (scores + values)
