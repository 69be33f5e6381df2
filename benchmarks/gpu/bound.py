"""The least time the aggregation can take on a chip: exponentials, tensor-core operations and bytes over its rates.

    python -m benchmarks.gpu.bound

prints the table of ``docs/decisions/0009-aggregation-kernel-bound.md``.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from benchmarks.gpu.library import Problem

_COLUMNS = 8
"""Columns of one tensor-core tile: C and the sum of the probabilities are padded to a multiple of it."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published rates of one GPU.

    Attributes:
        name: As in the table.
        multiprocessors: Count.
        clock: Boost clock, Hz.
        tensor: FP16 operations with FP32 sums per second, dense, 2 per multiply-add.
        bandwidth: Of device memory, bytes per second.
        exponentials_per_clock: Of one multiprocessor; 16 on all of these (CUDA C++ Programming Guide, "Throughput of
            Native Arithmetic Instructions").
    """

    name: str
    multiprocessors: int
    clock: float
    tensor: float
    bandwidth: float
    exponentials_per_clock: int = 16


# Sources. H100 SXM: "NVIDIA H100 Tensor Core GPU Architecture" (the clock is that of its peak rates). Orin: "NVIDIA
# Jetson AGX Orin Series Technical Brief" v1.2 and the Orin Nano data sheet; a quarter of the sparse INT8 rate. Orin
# Nano Super: the same chip at its clocks of JetPack 6.2. RTX 4090, RTX 5090: NVIDIA's Ada and RTX Blackwell
# architecture papers.
CHIPS = (
    Chip("H100 SXM", 132, 1.83e9, 989.4e12, 3350e9),
    Chip("RTX 5090", 170, 2.407e9, 209.5e12, 1792e9),
    Chip("RTX 4090", 128, 2.52e9, 165.2e12, 1008e9),
    Chip("AGX Orin 64GB", 16, 1.3e9, 42.5e12, 204.8e9),
    Chip("Orin Nano Super", 8, 1.02e9, 16.7e12, 102e9),
    Chip("Orin Nano", 8, 0.625e9, 10.2e12, 68e9),
)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that each unit is busy at least."""

    exponentials: float
    tensor: float
    memory: float

    @property
    def seconds(self) -> float:
        """The longest of the three: they can overlap, but none can be shortened."""
        return max(self.exponentials, self.tensor, self.memory)

    @property
    def unit(self) -> str:
        """Name of the largest of the three bounds."""
        return max(("exponentials", "tensor", "memory"), key=lambda name: getattr(self, name))


def operations(problem: Problem) -> int:
    """Tensor-core operations: Q K^T, and the product with C + 1 columns padded to tiles of 8."""
    columns = -(-(problem.classes + 1) // _COLUMNS) * _COLUMNS
    return problem.exponentials * 2 * (problem.width + columns)


def bytes_read(problem: Problem) -> int:
    """Bytes of q and k of all blocks, once; v is not read, and the result is a thousandth of this."""
    size = 2 if problem.half else 4
    return problem.blocks * problem.batch * problem.tokens * 2 * problem.heads * problem.width * size


def bound(problem: Problem, chip: Chip) -> Bound:
    """The bound of one shape on one chip."""
    rate = chip.multiprocessors * chip.clock * chip.exponentials_per_clock
    return Bound(problem.exponentials / rate, operations(problem) / chip.tensor, bytes_read(problem) / chip.bandwidth)


def format_bounds(problems: Sequence[Problem], chips: Sequence[Chip] = CHIPS) -> str:
    """A Markdown table, times in microseconds."""
    lines = ["| GPU | T | exponentials | tensor cores | memory | bound by |", "|---|---|---|---|---|---|"]
    for chip in chips:
        for problem in problems:
            least = bound(problem, chip)
            times = [f"{value * 1e6:,.0f}" for value in (least.exponentials, least.tensor, least.memory)]
            lines.append(f"| {chip.name} | {problem.tokens} | {' | '.join(times)} | {least.unit} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table."""
    problems = [Problem(1031), Problem(4103)]
    for problem in problems:
        print(
            f"{problem}: {problem.exponentials / 1e6:.1f} M exponentials, {operations(problem) / 1e9:.2f} GFLOP, "
            f"{bytes_read(problem) / 1e6:.1f} MB"
        )
    print(format_bounds(problems))
    return 0


if __name__ == "__main__":
    sys.exit(main())
