"""Statistics of timings: summaries, and ratios with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 5000
P99_FROM = 100
"""Least number of samples for a 99th percentile that is more than the slowest sample."""

TOLERANCE = 0.02
"""Ratios within this of 1 count as equal: less is not worth a decision."""


@dataclass(frozen=True)
class Summary:
    """Samples in a few numbers, in the unit of the samples.

    Attributes:
        mean: Arithmetic mean.
        p50: Median.
        p90: 90th percentile.
        p99: 99th percentile; None below `P99_FROM` samples.
        std: Standard deviation of the samples (n - 1); None for one sample.
        low: Smallest.
        high: Largest.
        count: Number of samples.
    """

    mean: float
    p50: float
    p90: float
    p99: float | None
    std: float | None
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """Ratio of two times, with its confidence interval.

    Attributes:
        value: The ratio; below 1 the first is faster.
        low: Lower end of the confidence interval.
        high: Upper end.
        confidence: Confidence of the interval.
        rounds: Number of pairs, or of the smaller of the two samples.
    """

    value: float
    low: float
    high: float
    confidence: float
    rounds: int

    def verdict(self, quiet: bool = True) -> str:
        """``"faster"``, ``"slower"``, ``"equal"`` or ``"too noisy to conclude"``.

        Args:
            quiet: Whether the machine was; on one that was not, intervals understate what may have gone wrong.
        """
        if not quiet or self.rounds < 3:
            return "too noisy to conclude"
        if self.low >= 1 - TOLERANCE and self.high <= 1 + TOLERANCE:
            return "equal"
        if self.high < 1:
            return "faster"
        if self.low > 1:
            return "slower"
        return "too noisy to conclude"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def summarise(samples: Sequence[float] | npt.NDArray[np.float64]) -> Summary:
    """Samples in a few numbers; percentiles by linear interpolation, as numpy's default.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    values = np.asarray(samples, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("samples must be finite, and at least one")
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return Summary(
        mean=float(values.mean()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99) if values.size >= P99_FROM else None,
        std=float(values.std(ddof=1)) if values.size > 1 else None,
        low=float(np.min(values)),
        high=float(np.max(values)),
        count=int(values.size),
    )


def paired_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Ratio:
    """First over second, of blocks measured in the same rounds.

    The ratio is the geometric mean of the rounds' ratios, so that a slow minute of the machine, which falls on both
    of a round, cancels. The interval is the percentile bootstrap over rounds (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, ch. 13), on logarithms.

    Args:
        first: One positive number a round, such as a block's median.
        second: The same rounds of the other.
        seed: Seed of the resampling.

    Raises:
        ValueError: Unequal or no rounds, or numbers that are not positive.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} rounds against {len(second)}")
    logs = _logs(first) - _logs(second)
    draws = np.random.default_rng(seed).integers(0, logs.size, (RESAMPLES, logs.size))
    return _ratio(float(logs.mean()), logs[draws].mean(axis=1), logs.size)


def unpaired_ratio(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Ratio:
    """First over second, of blocks of two separate runs: as `paired_ratio`, each side resampled on its own.

    Raises:
        ValueError: A side is empty, or holds numbers that are not positive.
    """
    one, other = _logs(first), _logs(second)
    random = np.random.default_rng(seed)
    means = [side[random.integers(0, side.size, (RESAMPLES, side.size))].mean(axis=1) for side in (one, other)]
    return _ratio(float(one.mean() - other.mean()), means[0] - means[1], min(one.size, other.size))


def scatter(values: Sequence[float]) -> float:
    """Robust relative spread: the median absolute deviation, scaled to that of a normal (1.4826), over the median."""
    array = np.asarray(values, np.float64)
    middle = float(np.median(array))
    return float(1.4826 * np.median(np.abs(array - middle)) / middle)


def drift(values: Sequence[float]) -> float:
    """Median of the last third over that of the first third, less 1; 0 for fewer than six values."""
    third = len(values) // 3
    if third < 2:
        return 0.0
    return float(np.median(values[-third:]) / np.median(values[:third]) - 1)


def _logs(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.size == 0 or not np.isfinite(array).all() or np.min(array) <= 0:
        raise ValueError("ratios need positive, finite numbers")
    return np.log(array)


def _ratio(log: float, resampled: npt.NDArray[np.float64], rounds: int) -> Ratio:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, (tail, 100 - tail))
    return Ratio(float(np.exp(log)), float(np.exp(low)), float(np.exp(high)), CONFIDENCE, rounds)
