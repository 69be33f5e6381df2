"""What Linux says of clocks, temperatures and throttling, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SYS = Path("/sys")


def read_temperatures(root: Path = SYS) -> dict[str, float]:
    """Degrees Celsius by thermal zone; zones that are switched off or cannot be read are left out."""
    found = {}
    for zone in sorted((root / "class/thermal").glob("thermal_zone*")):
        degrees = _number(zone / "temp")
        # -256 C is how Tegra says that a zone is powered down.
        if degrees is not None and degrees > -255_000:
            found[_text(zone / "type") or zone.name] = degrees / 1000
    return found


def read_clocks(root: Path = SYS) -> dict[str, Any]:
    """Clocks of processor and GPU in Hz, now and at most, and the processor's governors."""
    now, most, governors = [], [], set()
    for core in sorted((root / "devices/system/cpu").glob("cpu[0-9]*")):
        clock, limit = _number(core / "cpufreq/scaling_cur_freq"), _number(core / "cpufreq/scaling_max_freq")
        if clock is not None:
            now.append(clock * 1000)
        if limit is not None:
            most.append(limit * 1000)
        governors.add(_text(core / "cpufreq/scaling_governor"))
    gpus = {}
    for device in sorted((root / "class/devfreq").glob("*")):
        # Orin's is 17000000.gpu, Thor's are gpu-gpc-0 and gpu-nvd-0.
        if "gpu" in device.name:
            clock, limit = _number(device / "cur_freq"), _number(device / "max_freq")
            if clock is not None:
                gpus[device.name] = {"hz": clock, "max_hz": limit}
    return {
        "cpu_hz": {"low": min(now), "high": max(now)} if now else None,
        "cpu_max_hz": max(most) if most else None,
        "governors": sorted(governors - {""}),
        "gpus": gpus,
    }


def count_throttling(root: Path = SYS) -> dict[str, int]:
    """Events counted since the machine started; empty where nobody counts.

    Intel counts per core (``thermal_throttle/core_throttle_count``), Orin and Thor count over-current events (hwmon
    ``soctherm_oc``: 1 is under-voltage, 2 average and 3 instantaneous over-current).
    """
    counts = {}
    cores = [
        count
        for core in (root / "devices/system/cpu").glob("cpu[0-9]*")
        if (count := _number(core / "thermal_throttle/core_throttle_count")) is not None
    ]
    if cores:
        counts["core_throttle_count"] = sum(cores)
    for device in sorted((root / "class/hwmon").glob("hwmon*")):
        if _text(device / "name") == "soctherm_oc":
            for path in sorted(device.glob("oc*_event_cnt")):
                count = _number(path)
                if count is not None:
                    counts[path.name] = count
    return counts


def read_alerts(root: Path = SYS) -> list[str]:
    """Names of Tegra's throttling alerts that are raised now."""
    return sorted(
        kind
        for device in (root / "class/thermal").glob("cooling_device*")
        if "throttle" in (kind := _text(device / "type")) and (_number(device / "cur_state") or 0) > 0
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
