"""Interleaved measuring: every round visits every candidate, in a new random order.

Slow changes of the machine (heat, clocks, other processes) then fall on all candidates alike, and ratios of one round
compare like with like.
"""

from __future__ import annotations

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from emra_deploy.errors import EmraError

_log = logging.getLogger(__name__)

Iteration = Callable[[int], Mapping[str, float]]
"""Runs one iteration, given its number; returns the seconds of each stage. The number chooses the input, so all
candidates see the same inputs in the same order."""

MAX_ITERATIONS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Numbers of iterations and rounds of a measurement.

    Attributes:
        iterations: Measured iterations of each candidate, over all rounds.
        warmup: Iterations of each candidate before the first round, thrown away.
        rounds: Visits to each candidate; more make intervals narrower, and visits shorter.
        settle: Iterations thrown away at the start of each visit: caches and threads come back from another candidate.
        seed: Seed of the order within rounds.

    Raises:
        EmraError: ``iterations``: a value is out of range.
    """

    iterations: int = 100
    warmup: int = 10
    rounds: int = 10
    settle: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("iterations", 1), ("warmup", 0), ("rounds", 1), ("settle", 0)):
            value = getattr(self, name)
            if not low <= value <= MAX_ITERATIONS:
                raise EmraError(
                    "iterations", f"{name} is {value}, expected {low} to {MAX_ITERATIONS}", f"Change --{name}"
                )
        if self.rounds > self.iterations:
            raise EmraError(
                "iterations",
                f"{self.rounds} rounds of {self.iterations} iterations leave rounds without any",
                "Give at least as many iterations as rounds",
            )

    @property
    def per_visit(self) -> tuple[int, ...]:
        """Measured iterations of each round: they differ by one at most, and add up to ``iterations``."""
        whole, rest = divmod(self.iterations, self.rounds)
        return tuple(whole + (number < rest) for number in range(self.rounds))


@dataclass
class Series:
    """Measurements of one candidate.

    Attributes:
        visits: For each round the seconds of each stage, one number an iteration.
        spans: For each round when its measured part began and ended, by `time.perf_counter`.
        failure: Exception that ended the measurements of this candidate, or None.
    """

    visits: list[dict[str, list[float]]] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(self.visits[0]) if self.visits else ()

    def samples(self, stage: str) -> list[float]:
        """Seconds of a stage, all rounds together."""
        return [second for visit in self.visits for second in visit[stage]]

    def medians(self, stage: str) -> list[float]:
        """Median seconds of a stage, one a round, of which ratios are made."""
        return [statistics.median(visit[stage]) for visit in self.visits]


def measure(
    candidates: Mapping[str, Iteration],
    plan: Plan,
    progress: Callable[[int, str], None] = lambda number, name: None,
) -> dict[str, Series]:
    """Measure all candidates, interleaved.

    A candidate that raises is dropped and its exception is kept; the others continue.

    Args:
        candidates: By name, a function that runs one iteration.
        plan: Numbers of iterations and rounds.
        progress: Called before each visit with the round (from 0; -1 is the warm-up) and the candidate's name.
    """
    # Collect once: with PyTorch loaded, a collection takes a second, and the garbage is not ours.
    gc.collect()
    results = {name: Series() for name in candidates}
    numbers = dict.fromkeys(candidates, 0)

    def visit(name: str, count: int) -> list[Mapping[str, float]] | None:
        run, first = candidates[name], numbers[name]
        try:
            rows = [run(number) for number in range(first, first + count)]
        except Exception as error:
            # A candidate out of memory, or an engine of another version, must not lose the results of the others.
            _log.debug("%s failed", name, exc_info=True)
            results[name].failure = error
            return None
        numbers[name] = first + count
        return rows

    for name in candidates:
        progress(-1, name)
        visit(name, plan.warmup)
    order = np.random.default_rng(plan.seed)
    names = list(candidates)
    for number, count in enumerate(plan.per_visit):
        for index in order.permutation(len(names)):
            name = names[index]
            if results[name].failure is not None:
                continue
            progress(number, name)
            with _no_collection():
                if visit(name, plan.settle) is None:
                    continue
                begin = time.perf_counter()
                rows = visit(name, count)
                end = time.perf_counter()
            if rows is not None:
                results[name].visits.append({stage: [row[stage] for row in rows] for stage in rows[0]})
                results[name].spans.append((begin, end))
    return results


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the garbage collector during a visit."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
