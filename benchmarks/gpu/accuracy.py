"""Accuracy of the kernels: errors against FP64, compared with PyTorch in the same precision, on fresh inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.formulas import errors, explicit, make_inputs, reference
from benchmarks.gpu.library import Aggregation, Problem
from benchmarks.gpu.rows import Goal, Row
from emra_deploy.errors import one_line

SECTION = "relative error against FP64, compared with PyTorch's in the same precision"

# Below these limits a result is correct regardless of PyTorch's error: half an ulp of FP16, a few ulps of FP32.
FLOOR = {True: 2.0**-11, False: 1e-6}
GUARD = 256
"""Bytes after gca and workspace that must stay as they were."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, how sharp its attention is, and how far its inputs lie from the start of their allocations."""

    problem: Problem
    spread: float = 1.0
    offset: int = 0

    def __str__(self) -> str:
        notes = [f"spread {self.spread:g}"] * (self.spread != 1) + [f"offset {self.offset}"] * (self.offset != 0)
        return ", ".join([str(self.problem), *notes])


def cases() -> Iterator[Case]:
    """The sizes of the issue, then every head width, number of column tiles and blocks, and sharp attention."""
    for tokens in (10, 205, 1031, 2311, 4103):
        for batch in (1, 4, 16):
            yield Case(Problem(tokens, batch))
    for tokens, batch in ((10, 1), (205, 4), (1031, 1), (2311, 1)):
        yield Case(Problem(tokens, batch, half=False))
    for half in (True, False):
        for width in (32, 64, 80, 128):
            for classes, blocks in ((1, 1), (8, 12), (15, 2), (16, 3), (32, 1)):
                yield Case(Problem(517, 2, classes, 3, width, blocks, half), spread=2, offset=8)
    for spread in (3.0, 6.0):
        yield Case(Problem(1031), spread=spread)
        yield Case(Problem(1031, half=False), spread=spread)


def guarded_launch(library: Aggregation, problem: Problem, qkv: list[Tensor]) -> Tensor:
    """Launch into poisoned memory of the exact size, with guards behind it.

    Raises:
        AssertionError: A byte behind gca or the workspace was written.
    """
    size = problem.batch * problem.classes * problem.patches * 4
    needed = library.workspace_bytes(problem)
    memory = [torch.full((bytes_ + GUARD,), 0xFF, dtype=torch.uint8, device="cuda") for bytes_ in (size, needed)]
    gca = memory[0][:size].view(torch.float32).view(problem.batch, problem.classes, problem.patches)
    library.launch(problem, qkv, gca, memory[1])
    torch.cuda.synchronize()
    for buffer, bytes_ in zip(memory, (size, needed), strict=True):
        assert bool((buffer[bytes_:] == 0xFF).all()), f"{problem}: written past the end"
    return gca.clone()


def check(library: Aggregation, case: Case, seed: int) -> list[Row]:
    """Rows of one case: its error, and whether a second launch gives the same bits."""
    problem = case.problem
    qkv = make_inputs(problem, seed, case.spread, case.offset)
    truth = reference(problem, qkv)
    result = guarded_launch(library, problem, qkv)
    again = guarded_launch(library, problem, qkv)
    mine = errors(result, truth)
    peer = errors(explicit(problem, qkv), truth)
    # By the worse of the two measures.
    worst = max((0, 1), key=lambda i: mine[i] / max(2 * peer[i], FLOOR[problem.half]))
    limit = max(2 * peer[worst], FLOOR[problem.half])
    rows = [Row(SECTION, str(case), mine[worst], "", Goal("<=", limit), f"PyTorch {peer[worst]:.2e}", required=True)]
    if not torch.equal(result, again):
        rows.append(Row(SECTION, f"{case}: same bits twice", 0.0, "", Goal(">=", 1), "differs", required=True))
    return rows


def check_all(library: Aggregation, seed: int) -> list[Row]:
    """Rows of all cases; a case that raises becomes a row too."""
    torch.backends.cuda.matmul.allow_tf32 = False
    rows: list[Row] = []
    for number, case in enumerate(cases()):
        try:
            rows += check(library, case, seed + number)
        except (RuntimeError, AssertionError) as error:
            rows.append(Row(SECTION, str(case), None, "", Goal("<=", 0), one_line(error, 120), True))
            if isinstance(error, RuntimeError) and not isinstance(error, torch.cuda.OutOfMemoryError):
                return rows  # A device error may leave the device unusable.
        torch.cuda.empty_cache()
    return rows
