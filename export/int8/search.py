"""Search for the linears that become INT8: the cheapest graph within an accuracy budget.

Choosing linears for INT8 is a knapsack: each one saves time and costs accuracy. Divergences add up, so linears ordered
by divergence per second saved give, as prefixes, the optimal choices of the relaxed knapsack (Dantzig 1957). The
accuracy that a prefix loses is not modelled but measured, on labelled tiles: first the whole order, then by bisection
the longest prefix within the budget. That brackets the divergence that the budget allows, and the knapsack is solved
exactly for divergences in the bracket; then linears left out are tried one by one on top. Every choice that is
returned has itself been measured to be within the budget.

Nothing here knows of graphs: the evaluation is passed in as a function, so the search is tested on problems with a
known answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from emra_deploy.errors import EmraError


@dataclass(frozen=True)
class Budget:
    """The accuracy that may be lost.

    Attributes:
        max_drop: Points (hundredths) of mIoU.
        max_class_drop: Points of IoU of any one class.
    """

    max_drop: float
    max_class_drop: float

    def __post_init__(self) -> None:
        for what, value in (("max-drop", self.max_drop), ("max-class-drop", self.max_class_drop)):
            if not 0 <= value <= 100:
                raise EmraError("optimize-budget", f"a drop of {value} points, expected 0 to 100", f"Change --{what}")


@dataclass(frozen=True)
class Outcome:
    """Measured losses of a choice of linears on labelled tiles.

    Attributes:
        drop: Points of mIoU lost against FP32; below 0 when it gained.
        class_drops: Points of IoU lost, by class; without the classes that do not occur.
        agreement: Share of pixels with the FP32 label.
    """

    drop: float
    class_drops: Mapping[str, float]
    agreement: float

    def within(self, budget: Budget) -> bool:
        """Whether the losses are within a budget."""
        return self.drop <= budget.max_drop and all(drop <= budget.max_class_drop for drop in self.class_drops.values())


KNAPSACKS = 3
"""Capacities that are tried between the longest prefix within the budget and the next."""

LEVELS = 2000
"""Number of savings that the knapsack distinguishes."""

NOTHING = Outcome(0.0, {}, 1.0)
"""The outcome of FP32 itself: nothing is lost, by definition."""


@dataclass(frozen=True)
class Point:
    """One evaluated choice.

    Attributes:
        linears: Names of the quantised linears.
        outcome: Its losses.
        saving: Seconds a picture saved against FP32, by the sum of the linears' savings.
        step: The part of the search that evaluated it: ``"frontier"``, ``"knapsack"`` or ``"refine"``.
    """

    linears: frozenset[str]
    outcome: Outcome
    saving: float
    step: str


@dataclass(frozen=True)
class Found:
    """Result of the search.

    Attributes:
        chosen: Within the budget.
        points: All evaluated choices, in order; the first is FP32.
        order: Candidates by divergence per second saved, the best first.
        useless: Linears that INT8 does not make faster; they were left out from the start.
    """

    chosen: Point
    points: tuple[Point, ...]
    order: tuple[str, ...]
    useless: tuple[str, ...]

    @property
    def evaluations(self) -> int:
        """Number of choices evaluated; FP32 needs none."""
        return len(self.points) - 1

    def within(self, budget: Budget) -> list[Point]:
        """Choices within a budget, the largest saving first."""
        return sorted((p for p in self.points if p.outcome.within(budget)), key=lambda p: (-p.saving, len(p.linears)))


def order_by_worth(divergences: Mapping[str, float], savings: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Linears by divergence per second saved, and those that save nothing.

    Args:
        divergences: At least 0, by name.
        savings: Seconds a picture, by the same names.
    """
    useful = [name for name in divergences if savings[name] > 0]
    # Of equals the larger saving first; then by name, so that the order never depends on that of a dictionary.
    useful.sort(key=lambda name: (divergences[name] / savings[name], -savings[name], name))
    return useful, [name for name in divergences if savings[name] <= 0]


@dataclass
class _Search:
    evaluate: Callable[[frozenset[str]], Outcome]
    savings: Mapping[str, float]
    points: list[Point] = field(default_factory=list)
    known: dict[frozenset[str], Point] = field(default_factory=dict)

    def look(self, names: Sequence[str], step: str) -> Point:
        chosen = frozenset(names)
        if chosen not in self.known:
            outcome = self.evaluate(chosen) if chosen else NOTHING
            point = Point(chosen, outcome, sum(self.savings[name] for name in chosen), step)
            self.known[chosen] = point
            self.points.append(point)
        return self.known[chosen]


def search(
    divergences: Mapping[str, float],
    savings: Mapping[str, float],
    evaluate: Callable[[frozenset[str]], Outcome],
    budget: Budget,
    *,
    curve: int = 6,
    tries: int = 8,
) -> Found:
    """Find the cheapest choice within a budget.

    Args:
        divergences: Divergence that each linear causes alone, by name; at least 0.
        savings: Seconds a picture that INT8 saves, by the same names.
        evaluate: Measures a choice on labelled tiles.
        budget: The accuracy that may be lost.
        curve: Prefixes that are evaluated for the sake of the curve of cost against accuracy, at least 1.
        tries: Linears that are tried on top of the longest prefix.
    """
    order, useless = order_by_worth(divergences, savings)
    run = _Search(evaluate, savings)
    best = run.look((), "frontier")
    if order:
        whole = run.look(order, "frontier").outcome.within(budget)
        fits, fails = (len(order), len(order) + 1) if whole else (0, len(order))
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if run.look(order[:middle], "frontier").outcome.within(budget):
                fits = middle
            else:
                fails = middle
        best = run.look(order[:fits], "frontier")
        if fits < len(order):
            low, high = (sum(divergences[name] for name in order[:count]) for count in (fits, fails))
            best = _solve(run, best, {name: divergences[name] for name in order}, (low, high), budget)
            best = _refine(run, best, [name for name in order if name not in best.linears], budget, tries)
        for part in range(1, curve + 1):
            point = run.look(order[: -(-part * len(order) // curve)], "frontier")
            # Accuracy need not fall evenly: a longer prefix may be within the budget though bisection saw a shorter
            # one that was not.
            if point.saving > best.saving and point.outcome.within(budget):
                best = point
    return Found(best, tuple(run.points), tuple(order), tuple(useless))


def _solve(
    run: _Search, best: Point, divergences: Mapping[str, float], bracket: tuple[float, float], budget: Budget
) -> Point:
    """Bisect the divergence that the budget allows, each time with the choice that saves most for it."""
    low, high = bracket
    for number in range(KNAPSACKS):
        # All that is known not to fit first: one linear may fill the bracket to the brim.
        capacity = (low + high) / 2 if number else high * (1 - 1e-9)
        point = run.look(sorted(knapsack(divergences, run.savings, capacity)), "knapsack")
        if point.outcome.within(budget):
            low = capacity
            best = max(best, point, key=lambda one: one.saving)
            if not number:
                break
        else:
            high = capacity
    return best


def knapsack(divergences: Mapping[str, float], savings: Mapping[str, float], capacity: float) -> set[str]:
    """The linears that save most while their divergences add up to a capacity at most.

    The 0/1 knapsack by dynamic programming over savings, of which it distinguishes `LEVELS`: at most one level of
    the total is lost for each linear.

    Args:
        divergences: At least 0, by name.
        savings: Above 0, by the same names at least.
        capacity: At least 0.
    """
    unit = sum(savings[name] for name in divergences) / LEVELS
    least: dict[int, tuple[float, frozenset[str]]] = {0: (0.0, frozenset())}
    for name, divergence in divergences.items():
        gain = int(savings[name] / unit)
        for level, (total, names) in list(least.items()):
            there, sum_ = level + gain, total + divergence
            if sum_ <= capacity and sum_ < least.get(there, (float("inf"),))[0]:
                least[there] = (sum_, names | {name})
    return set(least[max(least)][1])


def _refine(run: _Search, best: Point, left: Sequence[str], budget: Budget, tries: int) -> Point:
    """Try linears that were left out, the largest saving first: on top of the best, and alone where that saves more.

    The longest prefix and the next linear together save at least as much as any choice within the budget, so the
    better of the two saves at least half of it.
    """
    for name in sorted(left, key=lambda name: (-run.savings[name], name))[:tries]:
        for names in ({*best.linears, name}, {name}):
            if sum(run.savings[one] for one in names) > best.saving:
                point = run.look(sorted(names), "refine")
                if point.outcome.within(budget):
                    best = point
    return best


def pareto(costs: Sequence[float], drops: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: none costs less and loses less, or equals it in one.

    Args:
        costs: Cost of each point.
        drops: Drop of each point.
    """
    order = sorted(range(len(costs)), key=lambda index: (costs[index], drops[index]))
    kept: list[int] = []
    least = float("inf")
    for index in order:
        if drops[index] < least:
            kept.append(index)
            least = drops[index]
    return kept
