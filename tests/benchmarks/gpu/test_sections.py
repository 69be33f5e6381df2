"""Sections of the GPU suite over the emulated kernels, on a pretended GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import accuracy, blocks, model, speed, timing
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.library import Aggregation, Problem
from tests.benchmarks.gpu.conftest import Graph


@pytest.mark.slow
def test_accuracy_over_the_emulated_kernels(pretended: list[Graph], library: Aggregation) -> None:
    case = accuracy.Case(Problem(43, 2, 5, 2, 32, 1), spread=2, offset=8)
    rows = accuracy.check(library, case, seed=3)
    assert [row.verdict for row in rows] == ["ok"]
    assert "spread 2" in rows[0].name

    class Wrong:
        workspace_bytes = staticmethod(library.workspace_bytes)

        @staticmethod
        def launch(problem: Problem, qkv: Any, gca: torch.Tensor, workspace: torch.Tensor) -> None:
            library.launch(problem, qkv, gca, workspace)
            gca[0, 0, 0] *= 1.5

    assert accuracy.check(Wrong(), case, seed=3)[0].failed  # type: ignore[arg-type]


@pytest.mark.slow
def test_speed_over_the_emulated_kernels(
    pretended: list[Graph], library: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "Problem", lambda tokens: Problem(tokens, 1, 3, 1, 32, 1))
    monkeypatch.setattr(speed, "ROTATED_BYTES", 2e4)
    # Whatever a processor offers.
    monkeypatch.setattr(speed, "BACKENDS", {"math": torch.nn.attention.SDPBackend.MATH})
    monkeypatch.setattr(speed, "time_graphs", lambda works: timing.time_graphs(works, rounds=2, seconds=0.001))
    rows = speed.compare(library, Ceilings(1e9, 1e9, 1e9), 23, {"other": library}, compiled=False)
    found = {row.name: row for row in rows}
    assert {"plugin", "plugin, other", "streamed, SDPA math", "explicit FP16", "bound of this chip"} <= set(found)
    assert found["fastest SDPA / plugin"].value == pytest.approx(
        found["streamed, SDPA math"].value / found["plugin"].value  # type: ignore[operator]
    )
    assert found["extra memory, explicit / plugin"].value == 1
    assert all(row.value is not None for row in rows)


@pytest.mark.slow
def test_blocks_over_the_emulated_kernels(
    pretended: list[Graph], library: Aggregation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "Problem", lambda tokens: Problem(tokens, 1, 3, 1, 32, 2))
    monkeypatch.setattr(blocks, "DEPTH", 3)
    monkeypatch.setattr(blocks, "time_graphs", lambda works, rounds: timing.time_graphs(works, 2, 0.001))
    rows = blocks.compare_blocks(library, 23)
    assert [row.name for row in rows] == ["bare", "with aggregation", "with aggregation / bare"]
    assert rows[2].value == pytest.approx(rows[1].value / rows[0].value)  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_whole_model_in_its_three_forms(
    pretended: list[Graph], small_backbone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a processor the operator computes the streamed form, so all errors are alike and nothing is missed."""
    monkeypatch.setattr(model, "time_graphs", lambda works: timing.time_graphs(works, rounds=2, seconds=0.001))
    # Half precision is slow and partly missing on a processor.
    monkeypatch.setattr(torch.nn.Module, "half", lambda self: self)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: randn(*shape))
    monkeypatch.setenv("EMRA_KERNELS", "")
    rows = model.compare_models(tmp_path / "lib.so", batches=(1,), backbone="tiny", size=64)
    found = {row.name: row for row in rows}
    assert found["error of the logits, plugin"].verdict == "ok"
    # FP32 here: the forms differ by the order of sums alone.
    assert 0 < found["error of the logits, plugin"].value < 1e-4  # type: ignore[operator]
    assert {"SDPA", "plugin", "explicit", "SDPA / plugin", "extra memory, plugin"} <= set(found)
    assert os.environ["EMRA_KERNELS"] == str(tmp_path / "lib.so")


def test_times_are_those_of_one_unit_of_work(pretended: list[Graph]) -> None:
    def failing() -> None:
        raise RuntimeError("not permitted\nwhen stream is capturing")

    times, failures = timing.time_graphs(
        {"one": [lambda: time.sleep(0.002)], "three": [lambda: time.sleep(0.002)] * 3, "broken": [failing]},
        rounds=2,
        seconds=0.01,
    )
    assert set(times) == {"one", "three"}
    assert failures == {"broken": "not permitted when stream is capturing"}
    # Sleeping takes at least as long as asked; three units count as one each.
    assert all(seconds >= 0.002 for seconds, _ in times.values())
    assert timing.extra_memory(lambda: None) == 2000


def test_torch_compile_takes_the_streamed_form_whole() -> None:
    """A break in the graph would time Python."""
    from benchmarks.gpu.formulas import aggregation, make_inputs, streamed

    problem = Problem(23, 1, 3, 1, 32, 2, half=False)
    qkv = make_inputs(problem, seed=1, device="cpu")
    form = torch.compile(aggregation().aggregate_streamed, dynamic=False, backend="eager", fullgraph=True)
    found = form(qkv, problem.heads, problem.classes, problem.scale)
    torch.testing.assert_close(found, streamed(problem, qkv))
