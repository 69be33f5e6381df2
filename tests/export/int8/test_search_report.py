"""Choice of the whole graphs that `export.optimize` times, and reporting of measured and estimated costs."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from export.int8.cost import Timing
from export.int8.search import NOTHING, Budget, Found, Outcome, Point
from export.int8.search_report import SearchReport
from export.optimize import TIMED_GRAPHS, time_graphs


def points(count: int) -> tuple[Point, ...]:
    """Choices of 0, 1, 2... linears, each cheaper and worse than the one before: all of them on the front."""
    names = [f"l{number}" for number in range(count)]
    made = [
        Point(frozenset(names[:size]), Outcome(0.1 * size, {}, 1 - 0.01 * size), 0.010 * size, "frontier")
        for size in range(1, count + 1)
    ]
    return (Point(frozenset(), NOTHING, 0.0, "frontier"), *made)


class Costs:
    """Records the graphs that it was asked to time."""

    def graphs(self, variants: Mapping[str, Any], progress: Any) -> dict[str, Timing]:
        self.asked = [variant.quantized for variant in variants.values()]
        return {name: Timing(1.0) for name in variants}


@pytest.mark.parametrize("count", [1, 3, TIMED_GRAPHS - 1, TIMED_GRAPHS, 3 * TIMED_GRAPHS])
def test_the_front_is_timed_from_end_to_end(count: int) -> None:
    found = Found(points(count)[-1], points(count), (), ())
    costs = Costs()
    quantizer = SimpleNamespace(linears={}, graph=lambda names: None)
    time_graphs(costs, quantizer, found, found.chosen, lambda text, done, total: None)  # type: ignore[arg-type]
    sizes = sorted(len(names) for names in costs.asked)
    assert len(set(sizes)) == len(sizes)
    if count < TIMED_GRAPHS:
        assert sizes == list(range(count + 1)), "so few that every one is timed"
    else:
        assert TIMED_GRAPHS <= len(sizes) <= TIMED_GRAPHS + 2
        assert {0, count} <= set(sizes)


def test_an_estimate_does_not_look_cheaper_than_what_saves_more() -> None:
    """Linears alone promise 40 ms; the chosen graph, with all of them, saves 10 of these."""
    found = Found(points(4)[-1], points(4), (), ())
    timings = {frozenset(): Timing(0.100), found.chosen.linears: Timing(0.090)}
    nothing: Any = None
    report = SearchReport("m", "cpu", "", True, Budget(1, 1), nothing, {}, found, found.chosen, timings, None, 1)
    costs = [report.cost_of(point) for point in found.points]
    assert [whole for _, whole in costs] == [True, False, False, False, True]
    assert [round(1e3 * seconds, 6) for seconds, _ in costs] == [100, 97.5, 95, 92.5, 90]
    assert {point.linears for point in report.best()} == {point.linears for point in found.points}


def test_linears_that_save_nothing_together_promise_nothing_alone() -> None:
    found = Found(points(2)[-1], points(2), (), ())
    timings = {frozenset(): Timing(0.100), found.chosen.linears: Timing(0.120)}
    nothing: Any = None
    report = SearchReport("m", "cpu", "", True, Budget(1, 1), nothing, {}, found, found.chosen, timings, None, 1)
    assert report.cost_of(found.points[1]) == (0.100, False)
