"""The aggregation in PyTorch: the reference in FP64, and the forms the kernels are compared with.

They are those of ``training/model/aggregation.py``, loaded from the file, because the package around it needs timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.gpu.library import Problem, load_file


def aggregation() -> ModuleType:
    """``training/model/aggregation.py`` as a separate module."""
    return load_file("training/model/aggregation.py")


def make_inputs(
    problem: Problem, seed: int, spread: float = 1.0, offset: int = 0, device: str = "cuda"
) -> list[Tensor]:
    """P fresh tensors B x T x 3 * heads * width.

    Args:
        problem: The shape.
        seed: Seed of the generator.
        spread: Standard deviation of q and k; 3 makes attention sharp.
        offset: Elements between the start of an allocation and the tensor, a multiple of 8 to keep 16 bytes aligned.
        device: Device of the tensors.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    shape = (problem.batch, problem.tokens, 3 * problem.heads * problem.width)
    size = shape[0] * shape[1] * shape[2]
    out = []
    for _ in range(problem.blocks):
        flat = torch.randn(size + offset, generator=generator, device=device) * spread
        out.append(flat.to(torch.float16 if problem.half else torch.float32)[offset:].view(shape))
    return out


def reference(problem: Problem, qkv: Sequence[Tensor]) -> Tensor:
    """GCA by the formula in FP64, B x C x N, one head's T x T at a time."""
    out = []
    for image in range(problem.batch):
        attention = torch.zeros(problem.tokens, problem.tokens, dtype=torch.float64, device=qkv[0].device)
        for packed in qkv:
            q, k = aggregation().split_qk(packed[image : image + 1], problem.heads)
            for head in range(problem.heads):
                scores = q[0, head].double() @ k[0, head].double().T
                attention += (scores * problem.scale).softmax(dim=-1)
        attention /= problem.heads * problem.blocks
        c = problem.classes
        out.append(attention[:c, c:] @ attention[c:, c:].T)
    return torch.stack(out)


def explicit(problem: Problem, qkv: Sequence[Tensor]) -> Tensor:
    """The formula in the inputs' precision, B x C x N: the peer in accuracy, and in memory and time at B = 1."""
    images = [
        aggregation().aggregate_explicit([x[i : i + 1] for x in qkv], problem.heads, problem.classes, problem.scale)
        for i in range(problem.batch)
    ]
    return torch.cat(images)


def streamed(problem: Problem, qkv: Sequence[Tensor]) -> Tensor:
    """Class rows, then fused attention over padded values, by the enabled backend: the reference for times."""
    gca: Tensor = aggregation().aggregate_streamed(qkv, problem.heads, problem.classes, problem.scale)
    return gca


def errors(result: Tensor, truth: Tensor) -> tuple[float, float]:
    """(largest error over the largest value, norm of the error over the norm)."""
    difference = result.double() - truth
    largest = difference.abs().max() / truth.abs().max()
    return float(largest), float(difference.norm() / truth.norm())
