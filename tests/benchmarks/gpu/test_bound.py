"""The bound of the aggregation: the issue's figures, and the decision that quotes them."""

from __future__ import annotations

import pytest

from benchmarks.gpu.bound import CHIPS, bound, bytes_read, format_bounds, operations
from benchmarks.gpu.library import PROJECT, Problem

BY_NAME = {chip.name: chip for chip in CHIPS}


def test_the_figures_of_the_issue() -> None:
    small, large = Problem(1031), Problem(4103)
    h100, orin = BY_NAME["H100 SXM"], BY_NAME["AGX Orin 64GB"]
    for problem, seconds in ((small, 13e-6), (large, 209e-6)):
        assert bound(problem, h100).seconds == pytest.approx(seconds, rel=0.03)
        assert bound(problem, h100).unit == "exponentials"
    for problem, seconds in ((small, 172e-6), (large, 2.7e-3)):
        assert bound(problem, orin).seconds == pytest.approx(seconds, rel=0.03)
        assert bound(problem, orin).unit == "tensor"


def test_counts() -> None:
    problem = Problem(10, batch=2, classes=8, heads=3, width=32, blocks=5, half=False)
    assert problem.exponentials == 2 * 3 * 5 * 100
    assert operations(problem) == problem.exponentials * 2 * (32 + 16)
    assert bytes_read(problem) == 2 * 5 * 10 * 2 * 3 * 32 * 4


def test_the_decision_quotes_the_table() -> None:
    text = (PROJECT / "docs/decisions/0009-aggregation-kernel-bound.md").read_text()
    assert format_bounds([Problem(1031), Problem(4103)]) in text
