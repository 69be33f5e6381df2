"""The measuring core: order, warm-up, failures, statistics against scipy, and the verdict on noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emra_deploy.errors import EmraError
from export.measure import Noise, Plan, Ratio, Watch, measure, paired_ratio, summarise, unpaired_ratio
from export.measure.noise import Probe
from export.measure.statistics import drift, scatter


class Recorder:
    """A candidate that notes its calls."""

    def __init__(self, name: str, calls: list[tuple[str, int]], fail_at: int | None = None) -> None:
        self.name, self.calls, self.fail_at = name, calls, fail_at

    def __call__(self, number: int) -> Mapping[str, float]:
        if number == self.fail_at:
            raise MemoryError("no room")
        self.calls.append((self.name, number))
        return {"compute": float(number), "end_to_end": float(number) + 1}


def test_every_round_visits_every_candidate_and_warm_up_is_thrown_away() -> None:
    calls: list[tuple[str, int]] = []
    plan = Plan(iterations=7, warmup=2, rounds=3, settle=1)
    results = measure({name: Recorder(name, calls) for name in "abc"}, plan)
    assert plan.per_visit == (3, 2, 2)
    # Warm-up: two of each, in order; then in each round every candidate once, settle + measured.
    assert [name for name, _ in calls[:6]] == list("aabbcc")
    rest = [name for name, _ in calls[6:]]
    start = 0
    for count in plan.per_visit:
        visits = [rest[start + place * (count + 1)] for place in range(3)]
        assert sorted(visits) == list("abc")
        start += 3 * (count + 1)
    assert start == len(rest)
    # Inputs never repeat within a candidate, and all candidates get the same ones.
    for name in "abc":
        assert [number for caller, number in calls if caller == name] == list(range(2 + 7 + 3))
    # Numbers 0 and 1 are warm-up, 2, 6 and 9 settle.
    assert results["a"].samples("compute") == [3, 4, 5, 7, 8, 10, 11]
    assert results["a"].medians("end_to_end") == [5, 8.5, 11.5]
    assert all(begin <= end for begin, end in results["b"].spans)


def test_the_order_differs_between_rounds() -> None:
    calls: list[tuple[str, int]] = []
    measure({name: Recorder(name, calls) for name in "abcd"}, Plan(8, 0, 8, 0))
    orders = {tuple(name for name, _ in calls[start : start + 4]) for start in range(0, 32, 4)}
    assert len(orders) > 1


def test_one_failing_candidate_does_not_lose_the_others() -> None:
    calls: list[tuple[str, int]] = []
    results = measure({"a": Recorder("a", calls, fail_at=4), "b": Recorder("b", calls)}, Plan(6, 1, 3, 0))
    assert isinstance(results["a"].failure, MemoryError)
    assert len(results["a"].visits) == 1
    assert results["b"].failure is None
    assert len(results["b"].samples("compute")) == 6


def test_a_candidate_that_fails_in_its_warm_up_is_not_asked_again() -> None:
    calls: list[tuple[str, int]] = []
    results = measure({"a": Recorder("a", calls, fail_at=0), "b": Recorder("b", calls)}, Plan(2, 1, 1, 0))
    assert results["a"].visits == []
    assert results["a"].stages == ()
    assert not [name for name, _ in calls if name == "a"]


@pytest.mark.parametrize(
    "values", [{"iterations": 0}, {"warmup": -1}, {"rounds": 0}, {"settle": -1}, {"iterations": 3, "rounds": 4}]
)
def test_plans_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(EmraError) as caught:
        Plan(**values)
    assert caught.value.code == "iterations"


@given(st.integers(1, 300), st.integers(1, 300))
def test_visits_add_up(iterations: int, rounds: int) -> None:
    if rounds <= iterations:
        visits = Plan(iterations, 0, rounds).per_visit
        assert sum(visits) == iterations
        assert len(visits) == rounds
        assert max(visits) - min(visits) <= 1


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=300))
def test_summaries_are_those_of_the_sorted_samples(samples: list[float]) -> None:
    found = summarise(samples)
    assert found.low <= found.p50 <= found.p90 <= found.high
    assert found.count == len(samples)
    assert found.mean == pytest.approx(sum(samples) / len(samples))
    assert (found.p99 is None) == (len(samples) < 100)
    assert (found.std is None) == (len(samples) == 1)


def test_a_summary_of_nothing_or_nonsense_is_an_error() -> None:
    for samples in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            summarise(samples)


def test_intervals_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(5)
    first, second = random.lognormal(0.3, 0.1, 24), random.lognormal(0, 0.1, 24)
    found = paired_ratio(first, second)
    logs = np.log(first / second)
    expected = stats.bootstrap((logs,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert found.value == pytest.approx(stats.gmean(first / second))
    assert np.log(found.low) == pytest.approx(expected.low, abs=0.01)
    assert np.log(found.high) == pytest.approx(expected.high, abs=0.01)

    found = unpaired_ratio(first, second[:10])

    def difference(one, other, axis):
        return one.mean(axis=axis) - other.mean(axis=axis)

    expected = stats.bootstrap(
        (np.log(first), np.log(second[:10])), difference, method="percentile", n_resamples=9999, rng=1
    ).confidence_interval
    assert np.log(found.low) == pytest.approx(expected.low, abs=0.015)
    assert np.log(found.high) == pytest.approx(expected.high, abs=0.015)
    assert found.rounds == 10


def test_a_slow_minute_cancels_in_a_paired_ratio() -> None:
    weather = np.array([1, 1, 5, 5, 1, 1, 2, 2])
    found = paired_ratio(2.0 * weather, 1.0 * weather)
    assert (found.low, found.value, found.high) == pytest.approx((2, 2, 2))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=20))
def test_swapping_sides_turns_the_ratio_over(blocks: list[float]) -> None:
    other = list(reversed(blocks))
    one, two = paired_ratio(blocks, other), paired_ratio(other, blocks)
    assert one.value == pytest.approx(1 / two.value)
    assert one.low == pytest.approx(1 / two.high)


def test_bad_ratios_are_errors() -> None:
    for first, second in (([1.0], [1.0, 2.0]), ([], []), ([0.0], [1.0])):
        with pytest.raises(ValueError, match=r"rounds|positive"):
            paired_ratio(first, second)


@pytest.mark.parametrize(
    ("low", "high", "quiet", "rounds", "verdict"),
    [
        (0.5, 0.6, True, 10, "faster"),
        (1.1, 1.2, True, 10, "slower"),
        (0.99, 1.01, True, 10, "equal"),
        (0.9, 1.3, True, 10, "too noisy to conclude"),
        (0.5, 0.6, False, 10, "too noisy to conclude"),
        (0.5, 0.6, True, 2, "too noisy to conclude"),
    ],
)
def test_verdicts(low: float, high: float, quiet: bool, rounds: int, verdict: str) -> None:
    assert Ratio((low * high) ** 0.5, low, high, 0.95, rounds).verdict(quiet) == verdict


def test_noise_is_reported_with_its_reasons() -> None:
    assert Noise(0.01, 0.01, 0.0, 0).quiet
    noisy = Noise(0.4, 0.2, -0.3, 2)
    assert not noisy.quiet
    assert len(noisy.reasons) == 4
    assert "40%" in noisy.reasons[0]
    assert noisy.to_dict()["quiet"] is False


def test_scatter_and_drift() -> None:
    assert scatter([1.0] * 9 + [50.0]) == 0
    random = np.random.default_rng(0)
    assert scatter(random.normal(10, 1, 5000)) == pytest.approx(0.1, rel=0.1)
    assert drift([1, 1, 1, 2, 2, 2]) == pytest.approx(1)
    assert drift([1, 2]) == 0


def test_the_probe_and_the_watch_measure() -> None:
    pytest.importorskip("psutil")
    watch = Watch()
    probe = Probe(milliseconds=1)
    seconds = [probe(number)["end_to_end"] for number in range(5)]
    noise = watch.noise(seconds, throttled=0)
    assert min(seconds) > 0
    assert 0 <= noise.foreign <= 1
