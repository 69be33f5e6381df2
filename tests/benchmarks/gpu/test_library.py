"""The ctypes binding against the kernels on the emulated machine, and the formulas the suite compares with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.accuracy import cases
from benchmarks.gpu.formulas import errors, explicit, make_inputs, reference, streamed
from benchmarks.gpu.library import PROJECT, SOURCE, Aggregation, Problem, find_tool, nvcc_command
from emra_deploy.errors import EmraError


@pytest.mark.slow
@pytest.mark.parametrize("half", [True, False])
def test_the_binding_passes_every_field(library: Aggregation, half: bool) -> None:
    problem = Problem(tokens=43, batch=2, classes=5, heads=3, width=32, blocks=2, half=half)
    qkv = make_inputs(problem, seed=1, offset=8, device="cpu")
    gca = torch.full((2, 5, 38), float("nan"))
    workspace = torch.zeros(library.workspace_bytes(problem) + 256, dtype=torch.uint8)
    workspace = workspace[-workspace.data_ptr() % 256 :]
    library.launch(problem, qkv, gca, workspace, stream=0)
    assert max(errors(gca, reference(problem, qkv))) < (1e-3 if half else 1e-6)


@pytest.mark.slow
def test_unsupported_shapes_are_the_users_error(library: Aggregation) -> None:
    with pytest.raises(EmraError, match="32, 64, 80 or 128"):
        library.workspace_bytes(Problem(tokens=43, width=48))


@pytest.mark.slow
def test_a_failed_launch_is_an_error(library: Aggregation) -> None:
    problem = Problem(tokens=10, heads=1, width=32, blocks=1)
    qkv = make_inputs(problem, seed=1, offset=1, device="cpu")  # misaligned by one element
    gca, workspace = torch.empty(1, 7, 3), torch.zeros(4096, dtype=torch.uint8)
    workspace = workspace[-workspace.data_ptr() % 256 :]
    with pytest.raises(RuntimeError, match="CUDA error 1"):
        library.launch(problem, qkv, gca, workspace, stream=0)


@pytest.mark.slow
def test_the_workspace_keeps_to_the_goal_for_memory(library: Aggregation) -> None:
    """Explicit FP16 holds at least two T x T tensors of a block's 12 heads at once; the goal is 500 times less."""
    problem = Problem(4103)
    explicit_bytes = 2 * problem.heads * problem.tokens**2 * 2
    result_bytes = problem.classes * problem.patches * 4
    assert explicit_bytes / (library.workspace_bytes(problem) + result_bytes) >= 500


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 7, 32])
def test_the_workspace_grows_with_tokens_and_not_with_their_square(library: Aggregation, classes: int) -> None:
    sizes = [library.workspace_bytes(Problem(tokens, classes=classes)) for tokens in (1031, 4103, 16391, 65543)]
    assert sizes[3] < 65543 * 4 * (classes + 48) + 2**24
    assert sizes[3] / sizes[2] < 4.1


def test_the_forms_agree() -> None:
    problem = Problem(tokens=61, batch=2, classes=4, heads=2, width=32, blocks=3, half=False)
    qkv = make_inputs(problem, seed=3, device="cpu")
    truth = reference(problem, qkv)
    assert truth.shape == (2, 4, 57)
    for form in (explicit, streamed):
        assert max(errors(form(problem, qkv), truth)) < 2e-6


def test_problems_count_what_the_issue_counts() -> None:
    assert Problem(1031).exponentials == pytest.approx(51.0e6, rel=1e-3)
    assert Problem(4103).exponentials == pytest.approx(808e6, rel=1e-3)


def test_cases_cover_the_issue() -> None:
    all_cases = list(cases())
    problems = [case.problem for case in all_cases]
    for tokens in (10, 205, 1031, 2311, 4103):
        for batch in (1, 4, 16):
            assert Problem(tokens, batch) in problems
    assert {problem.width for problem in problems} == {32, 64, 80, 128}
    assert {problem.blocks for problem in problems} >= {1, 12}
    assert any(case.offset for case in all_cases)
    assert len({str(case) for case in all_cases}) == len(all_cases)


def test_nvcc_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert find_tool("nvcc") is None
    with pytest.raises(EmraError, match="CUDA_HOME"):
        nvcc_command([SOURCE], tmp_path / "x", (9, 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_suite_says_so(tmp_path: Path) -> None:
    command = [sys.executable, PROJECT / "benchmarks/gpu_suite.py", "--json", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("error: PyTorch sees no CUDA GPU")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


def test_unknown_sections_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks/gpu_suite.py", "--only", "speed,sped"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'sped'" in done.stderr
