"""Speed and memory of the kernels, compared with PyTorch's attention and the chip's ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.bound import operations
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.formulas import aggregation, explicit, make_inputs, streamed
from benchmarks.gpu.library import Aggregation, Problem
from benchmarks.gpu.rows import Goal, Row
from benchmarks.gpu.timing import Work, extra_memory, time_graphs
from emra_deploy.errors import one_line

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
# Goals of the issue, at 12 heads of 64, P = 4.
OVER_SDPA = {1031: 1.6, 4103: 1.8}
OVER_EXPLICIT = {4103: 7.0}
MEMORY_OVER_EXPLICIT = {4103: 500.0}
OF_CEILING = 0.75

# Inputs of this many bytes at least are gone through in turn, so that the L2 cache does not hold them all.
ROTATED_BYTES = 160e6


def input_sets(problem: Problem) -> list[list[torch.Tensor]]:
    """Enough sets of inputs for `ROTATED_BYTES`, at most 8."""
    bytes_ = problem.batch * problem.tokens * 3 * problem.heads * problem.width * problem.blocks * 2
    count = max(1, min(8, round(ROTATED_BYTES / bytes_)))
    return [make_inputs(problem, 1000 + number) for number in range(count)]


def works(form: Callable[..., object], problem: Problem, sets: list[list[torch.Tensor]]) -> list[Work]:
    """One call per set of inputs."""
    return [partial(form, problem, qkv) for qkv in sets]


def with_backend(backend: SDPBackend, problem: Problem, qkv: list[torch.Tensor]) -> torch.Tensor:
    """The streamed form, its fused attention by one backend."""
    with sdpa_kernel(backend):
        return streamed(problem, qkv)


def available_backends(problem: Problem, qkv: list[torch.Tensor]) -> tuple[dict[str, SDPBackend], dict[str, str]]:
    """The backends that take the streamed form's padded values, and why the others do not."""
    usable, refused = {}, {}
    for name, backend in BACKENDS.items():
        try:
            with_backend(backend, problem, qkv)
            torch.cuda.synchronize()
            usable[name] = backend
        except RuntimeError as error:
            refused[name] = one_line(error, 80)
    return usable, refused


def compare(
    library: Aggregation, ceilings: Ceilings, tokens: int, variants: Mapping[str, Aggregation], compiled: bool
) -> list[Row]:
    """Rows of one size at batch 1 in FP16: times, ratios with their goals, memory, share of the ceiling.

    Args:
        library: The kernels.
        ceilings: Of this chip.
        tokens: T.
        variants: Name -> kernels built with other options, timed as well.
        compiled: Whether to time torch.compile's streamed form too, which takes up to a minute to compile.
    """
    problem = Problem(tokens)
    section = (
        f"T = {tokens}, {problem.heads} heads of {problem.width}, P = {problem.blocks}, C = {problem.classes}, FP16"
    )
    sets = input_sets(problem)
    usable, refused = available_backends(problem, sets[0])
    candidates: dict[str, list[Work]] = {"plugin": works(library, problem, sets)}
    candidates |= {f"plugin, {name}": works(variant, problem, sets) for name, variant in variants.items()}
    for name, backend in usable.items():
        candidates[f"streamed, SDPA {name}"] = works(partial(with_backend, backend), problem, sets)
    # T x T tensors are beyond the L2 cache anyway; one set keeps the graph's memory in bounds.
    candidates["explicit FP16"] = works(explicit, problem, sets[:1])
    if compiled:
        form: Any = torch.compile(aggregation().aggregate_streamed, dynamic=False)
        try:
            form(sets[0], problem.heads, problem.classes, problem.scale)
            candidates["streamed, torch.compile"] = [
                partial(form, qkv, problem.heads, problem.classes, problem.scale) for qkv in sets
            ]
        except Exception as error:  # whatever a compiler raises, the other rows still stand
            refused["torch.compile"] = one_line(error, 80)

    times, failures = time_graphs(candidates)
    if "plugin" in failures:
        raise RuntimeError(f"the kernels could not be captured: {failures['plugin']}")
    rows = [
        Row(section, name, seconds * 1e6, "us", note=f"scatter {scatter:.1%}")
        for name, (seconds, scatter) in times.items()
    ]
    rows += [Row(section, f"streamed, {name}", None, note=why) for name, why in refused.items()]
    rows += [Row(section, name, None, note=why) for name, why in failures.items()]
    mine = times["plugin"][0]
    fused = {name: seconds for name, (seconds, _) in times.items() if name.startswith("streamed, SDPA")}
    if fused:
        fastest = min(fused, key=lambda name: fused[name])
        goal = Goal(">=", OVER_SDPA[tokens]) if tokens in OVER_SDPA else None
        rows.append(Row(section, "fastest SDPA / plugin", fused[fastest] / mine, "", goal, fastest))
    if "explicit FP16" in times:
        goal = Goal(">=", OVER_EXPLICIT[tokens]) if tokens in OVER_EXPLICIT else None
        rows.append(Row(section, "explicit / plugin", times["explicit FP16"][0] / mine, "", goal))
    rate = problem.exponentials / mine
    share = rate / ceilings.exponentials
    goal = Goal(">=", OF_CEILING)
    rows.append(Row(section, "exponentials per second / ceiling", share, "", goal, f"{rate / 1e12:.2f} T/s"))
    busiest = max(problem.exponentials / ceilings.exponentials, operations(problem) / ceilings.products)
    note = "the longer of ex2 alone and mma.sync alone, as measured"
    rows.append(Row(section, "bound of this chip", busiest * 1e6, "us", note=note))
    rows += memory_rows(library, problem, sets[0], section)
    return rows


def memory_rows(library: Aggregation, problem: Problem, qkv: list[torch.Tensor], section: str) -> list[Row]:
    """Extra memory of the kernels, the streamed and the explicit form, results included."""
    mine = extra_memory(lambda: library(problem, qkv))
    fused = extra_memory(lambda: streamed(problem, qkv))
    naive = extra_memory(lambda: explicit(problem, qkv))
    wanted = MEMORY_OVER_EXPLICIT.get(problem.tokens)
    return [
        Row(section, "extra memory, plugin", mine / 1e6, "MB"),
        Row(section, "extra memory, streamed", fused / 1e6, "MB"),
        Row(section, "extra memory, explicit", naive / 1e6, "MB"),
        Row(section, "extra memory, explicit / plugin", naive / mine, "", Goal(">=", wanted) if wanted else None),
    ]
