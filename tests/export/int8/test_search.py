"""The search for INT8 linears, on problems whose answer is known."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.errors import EmraError
from export.int8.search import Budget, Outcome, knapsack, order_by_worth, pareto, search

NAMES = [f"l{index}" for index in range(7)]
AMOUNTS = st.floats(0.01, 10)


def additive(drops: dict[str, float], share: float = 1.0):
    """An evaluation in which the linears' drops add up; a class loses its share of the mean's loss."""
    seen: list[frozenset[str]] = []

    def evaluate(names: frozenset[str]) -> Outcome:
        seen.append(names)
        drop = sum(drops[name] for name in sorted(names))
        return Outcome(drop, {"road": share * drop}, 1 - drop / 100)

    return evaluate, seen


@given(
    st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=7),
    st.floats(0, 40),
    st.floats(0, 3),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=150)
def test_what_is_chosen_is_within_the_budget_and_near_the_best(linears, most, share, random) -> None:
    drops = {name: drop for name, (drop, _) in zip(NAMES, linears, strict=False)}
    savings = {name: saving for name, (_, saving) in zip(NAMES, linears, strict=False)}
    # The proxy is only about proportional to the drop.
    divergences = {name: drop * random.uniform(0.9, 1.1) for name, drop in drops.items()}
    evaluate, seen = additive(drops, share)
    budget = Budget(most, most)
    found = search(divergences, savings, evaluate, budget, curve=2, tries=7)
    allowed = most / max(1.0, share)
    assert sum(drops[name] for name in found.chosen.linears) <= allowed + 1e-9
    assert found.chosen.outcome.within(budget)
    assert len(seen) == len(set(seen)) == found.evaluations, "nothing is evaluated twice"
    assert found.chosen in found.points
    assert found.chosen.saving == pytest.approx(sum(savings[name] for name in found.chosen.linears))
    best = max(
        sum(savings[name] for name in choice)
        for size in range(len(drops) + 1)
        for choice in itertools.combinations(drops, size)
        if sum(drops[name] for name in choice) <= allowed
    )
    # Greedy prefixes alone have no such bound; with the knapsack the usual one is kept with room for the proxy's error.
    assert found.chosen.saving >= 0.5 * best - 1e-9
    if sum(drops.values()) <= allowed - 1e-9:
        assert found.chosen.linears == set(drops)


def test_a_large_linear_that_no_prefix_reaches() -> None:
    """By worth the small one comes first, and then the large one no longer fits."""
    drops, savings = {"small": 0.01, "large": 1.0}, {"small": 0.1, "large": 1.0}
    evaluate, _ = additive(drops)
    found = search(drops, savings, evaluate, Budget(1.0, 100))
    assert found.chosen.linears == {"large"}


def test_linears_that_int8_does_not_make_faster_are_left_alone() -> None:
    evaluate, seen = additive({"a": 0.1, "b": 0.0, "c": 0.0})
    found = search({"a": 1, "b": 0, "c": 0}, {"a": 1.0, "b": 0.0, "c": -1.0}, evaluate, Budget(1, 1))
    assert found.chosen.linears == {"a"}
    assert found.useless == ("b", "c")
    assert all("b" not in names and "c" not in names for names in seen)
    nothing = search({"b": 0}, {"b": -1.0}, evaluate, Budget(1, 1))
    assert nothing.chosen.linears == frozenset()
    assert nothing.evaluations == 0


def test_one_class_can_hold_the_mean_back() -> None:
    drops = {name: 0.1 for name in NAMES}
    evaluate, _ = additive(drops, share=5)
    found = search(drops, dict.fromkeys(NAMES, 1.0), evaluate, Budget(10, 1.0))
    assert len(found.chosen.linears) == 2


def test_an_acceptance_that_is_not_monotone() -> None:
    """Two linears whose errors cancel: the whole is better than its parts, and is found as it is looked at first."""

    def evaluate(names: frozenset[str]) -> Outcome:
        return Outcome(0.0 if names >= {"a", "b"} else 9.0, {}, 1.0)

    found = search({"a": 1, "b": 2}, {"a": 1.0, "b": 1.0}, evaluate, Budget(1, 1))
    assert found.chosen.linears == {"a", "b"}


def test_one_linear_that_saves_more_than_all_that_fit_before_it() -> None:
    """By divergence it does not fit beside the first, and the brackets of the knapsack miss it."""
    evaluate, _ = additive({"l0": 9.0, "l1": 1.0, "l2": 8.0})
    savings = {"l0": 3.0, "l1": 1.0, "l2": 3.0}
    found = search({"l0": 9.0, "l1": 1.0, "l2": 8.5}, savings, evaluate, Budget(8, 8), curve=2, tries=7)
    assert found.chosen.linears == {"l2"}


@given(st.dictionaries(st.sampled_from(NAMES), st.tuples(AMOUNTS, AMOUNTS), min_size=1), st.floats(0, 40))
@settings(deadline=None, max_examples=100)
def test_the_knapsack_is_the_best_to_a_level(items: dict[str, tuple[float, float]], capacity: float) -> None:
    divergences = {name: divergence for name, (divergence, _) in items.items()}
    savings = {name: saving for name, (_, saving) in items.items()}
    chosen = knapsack(divergences, savings, capacity)
    assert sum(divergences[name] for name in chosen) <= capacity + 1e-9
    best = max(
        sum(savings[name] for name in choice)
        for size in range(len(items) + 1)
        for choice in itertools.combinations(items, size)
        if sum(divergences[name] for name in choice) <= capacity
    )
    level = sum(savings.values()) / 2000
    assert sum(savings[name] for name in chosen) >= best - (len(items) + 1) * level


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=12))
def test_no_point_of_the_front_is_beaten(points: list[tuple[float, float]]) -> None:
    costs, drops = [cost for cost, _ in points], [drop for _, drop in points]
    front = pareto(costs, drops)
    for index in range(len(points)):
        beaten = any(
            (costs[other] <= costs[index] and drops[other] <= drops[index]) and points[other] != points[index]
            for other in range(len(points))
        )
        if index in front:
            assert not beaten
        elif not beaten:
            assert any(points[other] == points[index] for other in front)
    assert [costs[index] for index in front] == sorted(costs[index] for index in front)


def test_the_order_does_not_depend_on_that_of_a_dictionary() -> None:
    divergences, savings = {"b": 1.0, "a": 1.0, "c": 0.5}, {"a": 1.0, "b": 1.0, "c": 2.0}
    assert order_by_worth(divergences, savings) == (["c", "a", "b"], [])
    assert order_by_worth(dict(reversed(divergences.items())), savings) == (["c", "a", "b"], [])


@pytest.mark.parametrize("values", [(-1, 1), (1, -1), (101, 1), (float("nan"), 1)])
def test_impossible_budgets(values: tuple[float, float]) -> None:
    with pytest.raises(EmraError) as caught:
        Budget(*values)
    assert caught.value.code == "optimize-budget"
