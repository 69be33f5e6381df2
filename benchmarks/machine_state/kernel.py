"""Clocks from Linux, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emra_deploy.host.throttling import SYS, read_number, read_text


def read_clocks(root: Path = SYS) -> dict[str, Any]:
    """Current and highest clocks of processor and GPU in Hz, and the processor's governors."""
    now, most, governors = [], [], set()
    for core in sorted((root / "devices/system/cpu").glob("cpu[0-9]*")):
        clock, limit = read_number(core / "cpufreq/scaling_cur_freq"), read_number(core / "cpufreq/scaling_max_freq")
        if clock is not None:
            now.append(clock * 1000)
        if limit is not None:
            most.append(limit * 1000)
        governors.add(read_text(core / "cpufreq/scaling_governor"))
    gpus = {}
    for device in sorted((root / "class/devfreq").glob("*")):
        # Orin's is 17000000.gpu, Thor's are gpu-gpc-0 and gpu-nvd-0.
        if "gpu" in device.name:
            clock, limit = read_number(device / "cur_freq"), read_number(device / "max_freq")
            if clock is not None:
                gpus[device.name] = {"hz": clock, "max_hz": limit}
    return {
        "cpu_hz": {"low": min(now), "high": max(now)} if now else None,
        "cpu_max_hz": max(most) if most else None,
        "governors": sorted(governors - {""}),
        "gpus": gpus,
    }
