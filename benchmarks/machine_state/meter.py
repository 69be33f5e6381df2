"""Energy of a run: a meter is sampled in the background and gives the joules of any span of time afterwards."""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine_state.ina3221 import HWMON, find_rails
from benchmarks.machine_state.nvml import Nvml
from benchmarks.machine_state.rails import choose_scope
from benchmarks.machine_state.rapl import POWERCAP, find_zones

_log = logging.getLogger(__name__)
INTERVAL = 0.05
"""Seconds between samples: INA3221s on Jetson renew their values faster, and NVML every 20 to 100 ms."""

MIN_SAMPLES = 3
"""Samples that a span needs for its energy to be reported."""


class Meter:
    """Samples energy or power until it is closed.

    Args:
        scope: Description of the measured parts.
        joules: Reads a counter of energy, or None.
        watts: Reads power, where there is no counter.
        interval: Seconds between samples.
    """

    def __init__(
        self,
        scope: str,
        joules: Callable[[], float | None] | None = None,
        watts: Callable[[], float | None] | None = None,
        interval: float = INTERVAL,
    ) -> None:
        read = joules or watts
        if read is None or (joules and watts):
            raise ValueError("a meter reads either energy or power")
        self.scope = scope
        self._read, self._counts = read, joules is not None
        self._times: list[float] = []
        self._energy: list[float] = []
        self._last_watts = 0.0
        self._stop = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, args=(interval,), name="power-meter", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        try:
            value = self._read()
        except (OSError, ValueError):
            value = None
        now = time.perf_counter()
        if value is None:
            # A missing sample leaves a longer step; a sensor that is gone leaves no samples.
            _log.debug("no sample of %s", self.scope)
            return
        energy = value
        if not self._counts:
            energy = 0.0
            if self._times:
                # Trapezoids between samples of power.
                energy = self._energy[-1] + (value + self._last_watts) / 2 * (now - self._times[-1])
            self._last_watts = value
        self._times.append(now)
        self._energy.append(energy)

    def _run(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self._sample()

    def joules(self, spans: Sequence[tuple[float, float]]) -> float | None:
        """Energy of spans of `time.perf_counter`, interpolated between samples; None if they hold too few samples."""
        times, energy = self._times[:], self._energy[:]
        count = min(len(times), len(energy))
        times, energy = times[:count], energy[:count]
        inside, total = 0, 0.0
        for begin, end in spans:
            if count < 2 or begin < times[0] or end > times[-1]:
                return None
            inside += bisect.bisect_right(times, end) - bisect.bisect_left(times, begin)
            total += _at(times, energy, end) - _at(times, energy, begin)
        return total if inside >= MIN_SAMPLES else None

    def close(self) -> None:
        """Take a last sample and stop."""
        self._stop.set()
        self._thread.join()
        self._sample()


def _at(times: Sequence[float], energy: Sequence[float], moment: float) -> float:
    index = min(max(bisect.bisect_left(times, moment), 1), len(times) - 1)
    before, after = times[index - 1], times[index]
    share = (moment - before) / (after - before) if after > before else 1.0
    return energy[index - 1] + share * (energy[index] - energy[index - 1])


def open_meter(hwmon: Path = HWMON, powercap: Path = POWERCAP, nvml: Nvml | None = None) -> tuple[Meter | None, str]:
    """The widest meter of this machine and its scope, or None and the reason.

    A Jetson's rails come first, then the GPU, then the processor.

    Args:
        hwmon: Folder of hwmon devices.
        powercap: Folder of powercap zones.
        nvml: The GPUs, if any.
    """
    rails = {rail.name: rail for rail in find_rails(hwmon)}
    scope = choose_scope(rails)
    if scope is not None:
        used = [rails[name] for name in scope.rails]
        return Meter(scope.words, watts=lambda: sum(rail.watts() for rail in used)), scope.words
    if nvml is not None:
        words = "GPU alone (NVML); the rest of the machine is not measured"
        if nvml.joules() is not None:
            return Meter(words, joules=nvml.joules), words
        if nvml.watts() is not None:
            return Meter(words, watts=nvml.watts), words
    zones, why = find_zones(powercap)
    if zones:
        words = (
            f"processor packages (RAPL: {', '.join(zone.name for zone in zones)}); memory and board are not measured"
        )
        return Meter(words, joules=lambda: sum(zone.joules() for zone in zones)), words
    return None, why or "there is no power meter"
