"""Throttling of processor and GPU clocks by heat, over-current or under-voltage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYS = Path("/sys")

LOOK_EVERY = 5.0
"""Seconds between two checks of the machine."""

POWER_CAP = "power cap"
"""The limit of a GPU at full load; it is not a fault."""

GPU_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": POWER_CAP,
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "temperature (driver)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""Names of NVML's bits, and their meanings."""

_log = logging.getLogger(__name__)


def read_temperatures(root: Path = SYS) -> dict[str, float]:
    """Degrees Celsius by thermal zone; zones that are off or unreadable are left out."""
    found = {}
    for zone in sorted((root / "class/thermal").glob("thermal_zone*")):
        degrees = read_number(zone / "temp")
        # Tegra reports -256 C for a zone that is powered down.
        if degrees is not None and degrees > -255_000:
            found[read_text(zone / "type") or zone.name] = degrees / 1000
    return found


def count_throttling(root: Path = SYS) -> dict[str, int]:
    """Throttling events since the machine started; empty if the system does not count them.

    Intel counts per core (``thermal_throttle/core_throttle_count``), Orin and Thor count over-current events (hwmon
    ``soctherm_oc``: 1 is under-voltage, 2 average and 3 instantaneous over-current).
    """
    counts = {}
    cores = [
        count
        for core in (root / "devices/system/cpu").glob("cpu[0-9]*")
        if (count := read_number(core / "thermal_throttle/core_throttle_count")) is not None
    ]
    if cores:
        counts["core_throttle_count"] = sum(cores)
    for device in sorted((root / "class/hwmon").glob("hwmon*")):
        if read_text(device / "name") == "soctherm_oc":
            for path in sorted(device.glob("oc*_event_cnt")):
                count = read_number(path)
                if count is not None:
                    counts[path.name] = count
    return counts


def read_alerts(root: Path = SYS) -> list[str]:
    """Names of Tegra's active throttling alerts."""
    return sorted(
        kind
        for device in (root / "class/thermal").glob("cooling_device*")
        if "throttle" in (kind := read_text(device / "type")) and (read_number(device / "cur_state") or 0) > 0
    )


def gpu_reasons(library: Any, handle: Any) -> list[str]:
    """Reasons that a GPU's clocks are limited now.

    Args:
        library: The module ``pynvml``, initialised.
        handle: Handle of the GPU.
    """
    try:
        mask = library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except (library.NVMLError, AttributeError):
        return []
    return [words for flag, words in GPU_REASONS.items() if mask & int(getattr(library, flag, 0))]


class ThrottleWatch:
    """Checks the machine periodically, and warns when throttling starts or ends.

    Args:
        root: Path of sysfs.
        every: Seconds between two checks.
        gpus: Returns the reasons of all GPUs; by default from NVML, if nvidia-ml-py and a driver are installed.
        clock: Returns the time in seconds.

    Attributes:
        now: Reasons at the last check.
        seen: Reasons of all checks, in order of appearance.
        began: Number of times that a reason appeared.
    """

    def __init__(
        self,
        root: Path = SYS,
        every: float = LOOK_EVERY,
        gpus: Callable[[], list[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._every, self._clock = root, every, clock
        self._gpus = _open_gpus() if gpus is None else gpus
        self._counts = count_throttling(root)
        self._next = clock()
        self.now: tuple[str, ...] = ()
        self.seen: tuple[str, ...] = ()
        self.began = 0

    def look(self) -> tuple[str, ...]:
        """Reasons that clocks are limited, checked again if the last check is too old."""
        if self._clock() >= self._next:
            self._next = self._clock() + self._every
            self._look()
        return self.now

    def _look(self) -> None:
        counts = count_throttling(self._root)
        risen = [name for name, count in counts.items() if count > self._counts.get(name, 0)]
        self._counts = counts
        reasons = [f"GPU: {reason}" for reason in self._gpus() if reason != POWER_CAP]
        now = tuple(dict.fromkeys([*read_alerts(self._root), *risen, *reasons]))
        begun = [name for name in now if name not in self.now]
        if begun:
            self.began += len(begun)
            self.seen = tuple(dict.fromkeys([*self.seen, *begun]))
            _log.warning("the machine is slowed down: %s%s", ", ".join(begun), self._heat())
        elif self.now and not now:
            _log.warning("the machine is no longer slowed down%s", self._heat())
        self.now = now

    def _heat(self) -> str:
        zones = read_temperatures(self._root)
        if not zones:
            return ""
        hottest = max(zones, key=lambda name: zones[name])
        return f" ({hottest} {zones[hottest]:.0f} °C)"


def _open_gpus() -> Callable[[], list[str]]:
    """A function that reads the reasons of all GPUs; it returns none without the library, the driver or a GPU."""
    try:
        import pynvml
    except ImportError:
        return list
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return list
    return lambda: list(dict.fromkeys(reason for handle in handles for reason in gpu_reasons(pynvml, handle)))


def read_text(path: Path) -> str:
    """Content of a file of sysfs; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Number in a file of sysfs, or None."""
    try:
        return int(read_text(path))
    except ValueError:
        return None
