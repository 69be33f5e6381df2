from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from training.model import EMRAConfig, EMRAProxy
from training.optim import learning_rate, make_average, make_optimizer
from training.recipe import OptimConfig


def test_poly():
    config = OptimConfig(lr=0.01, schedule="poly")
    assert learning_rate(config, 0, 100) == 0.01
    assert learning_rate(config, 50, 100) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(config, 99, 100) == pytest.approx(0.01 * 0.01**0.9)


def test_cosine():
    config = OptimConfig(lr=2.0, schedule="cosine")
    assert learning_rate(config, 0, 100) == 2.0
    assert learning_rate(config, 25, 100) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(config, 50, 100) == pytest.approx(1.0)
    assert learning_rate(config, 100, 100) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_warm_up_rises_to_the_peak_and_then_only_falls(schedule):
    config = OptimConfig(lr=0.1, schedule=schedule, warmup=4)
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert rates[-1] > 0


def test_a_warm_up_longer_than_the_run_is_a_ramp():
    assert [learning_rate(OptimConfig(lr=1.0, warmup=10), step, 3) for step in range(3)] == pytest.approx(
        [0.1, 0.2, 0.3]
    )


@pytest.mark.parametrize(
    ("name", "kind", "fusion", "weight"),
    [("sgd", torch.optim.SGD, "gated", "gate"), ("adamw", torch.optim.AdamW, "log", "log_sharpness")],
)
def test_decay_falls_on_matrices_and_kernels_only(name, kind, fusion, weight):
    model = EMRAProxy(EMRAConfig(image_size=(32, 32), fusion=fusion))
    optimizer = make_optimizer(model, OptimConfig(optimizer=name, weight_decay=0.05))
    assert isinstance(optimizer, kind)
    names = {id(value): key for key, value in model.named_parameters()}
    decayed, others = ([names[id(value)] for value in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert sorted(decayed + others) == sorted(names.values())
    assert all(key.endswith("weight") and "norm" not in key for key in decayed)
    assert {"backbone.class_tokens", "backbone.class_positions", "backbone.patch_positions", f"fusion.{weight}"} <= set(
        others
    )
    assert "backbone.patch_embed.proj.weight" in decayed
    assert "hra.depthwise.weight" in decayed


def test_sgd_is_the_papers():
    optimizer = make_optimizer(nn.Linear(2, 2), OptimConfig())
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]


def test_average_against_hand_computed():
    model = nn.Linear(1, 1, bias=False)
    average = make_average(model, 0.5)
    expected = None
    for count, value in enumerate([1.0, 3.0, -2.0, 5.0, 0.5, 8.0, 1.0, 2.0, 9.0, 4.0]):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        keep = min(0.5, (1 + count) / (10 + count))
        expected = value if expected is None else keep * expected + (1 - keep) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
    # From the ninth on the decay is that of the recipe.
    assert keep == 0.5
    assert model.weight.item() == 4.0


def test_no_average():
    assert make_average(nn.Linear(1, 1), 0.0) is None
