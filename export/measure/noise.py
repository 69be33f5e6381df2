"""Noise of the machine during a measurement, and limits beyond which timings allow no conclusion."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emra_deploy.host.extras import need
from export.measure.statistics import drift, scatter

PROBE = "machine probe"
"""Name of the candidate whose work never changes."""

MAX_FOREIGN = 0.10
"""Share of all cores that other processes, and other machines on the same host, may take."""

MAX_SCATTER = 0.08
"""Robust relative spread of the probe's rounds: a quiet laptop or board stays below 3 %."""

MAX_DRIFT = 0.08
"""Relative change of the probe from the first to the last third of the rounds, as when heat lowers the clocks."""


@dataclass(frozen=True)
class Noise:
    """Disturbances of the machine during a run.

    Attributes:
        foreign: Share of all cores, 0 to 1, that went to other processes or was stolen by the host.
        scatter: Robust relative spread of the probe's rounds.
        drift: Relative change of the probe from the first to the last third.
        throttled: Throttling events that the kernel or the driver counted; None where they are not counted.
    """

    foreign: float
    scatter: float
    drift: float
    throttled: int | None = None

    @property
    def reasons(self) -> list[str]:
        """Reasons why the timings allow no conclusion; empty on a quiet machine."""
        found = []
        if self.foreign > MAX_FOREIGN:
            found.append(f"other processes took {self.foreign:.0%} of all cores (at most {MAX_FOREIGN:.0%})")
        if self.scatter > MAX_SCATTER:
            found.append(f"the same work scattered by {self.scatter:.1%} between rounds (at most {MAX_SCATTER:.0%})")
        if abs(self.drift) > MAX_DRIFT:
            found.append(f"the same work drifted by {self.drift:+.1%} during the run (at most {MAX_DRIFT:.0%})")
        if self.throttled:
            found.append(f"{self.throttled} throttling events were counted")
        return found

    @property
    def quiet(self) -> bool:
        """Whether conclusions may be drawn."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "quiet": self.quiet, "reasons": self.reasons}


class Probe:
    """Work that never changes: products of two arrays that fit the second cache, on one thread.

    Interleaved with the candidates, it shows changes of the machine, independent of the candidates.
    """

    def __init__(self, milliseconds: float = 4.0) -> None:
        random = np.random.default_rng(0)
        self._first, self._second = random.random((2, 1 << 15), np.float32)
        self._out = np.empty_like(self._first)
        self._repeats = 1
        once = min(self(0)["end_to_end"] for _ in range(20))
        self._repeats = max(1, round(milliseconds / 1000 / once))

    def __call__(self, number: int) -> Mapping[str, float]:
        """One iteration."""
        begin = time.perf_counter()
        for _ in range(self._repeats):
            np.multiply(self._first, self._second, out=self._out)
        return {"end_to_end": time.perf_counter() - begin}


class Watch:
    """Counts, from construction on, processor time of other processes.

    Raises:
        EmraError: ``library-missing`` without psutil.
    """

    def __init__(self) -> None:
        need("bench", "psutil", purpose="measuring")
        import psutil

        self._psutil = psutil
        self._begin = self._read()

    def _read(self) -> tuple[float, float]:
        """Seconds of all cores together: in all, and of other processes."""
        times = self._psutil.cpu_times()._asdict()
        # Linux counts guests within user and nice.
        total = sum(seconds for name, seconds in times.items() if name not in ("guest", "guest_nice"))
        idle = times["idle"] + times.get("iowait", 0.0)
        own = self._psutil.Process().cpu_times()
        return total, total - idle - own.user - own.system

    def foreign(self) -> float:
        """Share of all cores that other processes took since construction, 0 to 1."""
        total, others = (now - then for now, then in zip(self._read(), self._begin, strict=True))
        return min(1.0, max(0.0, others / total)) if total > 0 else 0.0

    def noise(self, probe: Sequence[float], throttled: int | None = None) -> Noise:
        """The noise since construction.

        Args:
            probe: The probe's seconds, one a round.
            throttled: Events counted since construction.
        """
        return Noise(self.foreign(), scatter(probe), drift(probe), throttled)
