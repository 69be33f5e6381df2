"""Optimiser, schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.recipe import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make SGD or AdamW, with weight decay on matrices and kernels only."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    plain = ("class_tokens", "class_positions", "patch_positions", "gate", "log_sharpness")
    decayed = [value for name, value in named if value.ndim > 1 and not name.endswith(plain)]
    others = [value for name, value in named if value.ndim <= 1 or name.endswith(plain)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Rate of a step, counted from 0: linear warm-up, then poly with power 0.9 (the paper's) or a half cosine, to 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    if config.schedule == "poly":
        rate: float = config.lr * (1 - done) ** 0.9
        return rate
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def make_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential moving average of the weights, or None.

    Its decay grows as (1 + n) / (10 + n) up to ``decay``, so that the random start soon loses its weight.
    """
    if not decay:
        return None

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)
        keep = min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averages), list(values), 1 - keep)

    return AveragedModel(model, multi_avg_fn=update)
