"""The state of the machine at one moment, reported with its timings."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine_state.kernel import read_clocks
from benchmarks.machine_state.nvml import Nvml
from benchmarks.machine_state.nvpmodel import read_nvpmodel
from benchmarks.machine_state.tegrastats import Tegrastats, parse_tegrastats
from emra_deploy.host.throttling import POWER_CAP, SYS, count_throttling, read_alerts, read_temperatures


def take_snapshot(nvml: Nvml | None = None, root: Path = SYS) -> dict[str, Any]:
    """Power mode, clocks, temperatures and throttling now, as JSON values; None for facts that are not reported.

    Args:
        nvml: The GPUs, if any.
        root: Mount point of sysfs.
    """
    stats = read_tegrastats()
    return {
        "power_mode": read_nvpmodel(),
        "clocks": read_clocks(root),
        "celsius": read_temperatures(root),
        "throttling": count_throttling(root),
        "alerts": read_alerts(root),
        "gpus": nvml.describe() if nvml is not None else [],
        "tegrastats": None if stats is None else asdict(stats),
    }


def events_between(before: dict[str, Any], after: dict[str, Any]) -> int | None:
    """Throttling events between two snapshots; None if the machine does not count them."""
    first, second = before["throttling"], after["throttling"]
    if not first and not second and not before["gpus"]:
        return None
    counted = sum(max(0, count - first.get(name, 0)) for name, count in second.items())
    # A driver reports current reasons, not events; a power cap is the normal state of a busy GPU.
    reasons = {reason for gpu in after["gpus"] for reason in gpu["throttled_by"]} - {POWER_CAP}
    return int(counted) + len(reasons) + len(after["alerts"])


def read_tegrastats() -> Tegrastats | None:
    """One line of tegrastats, or None without the program."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    try:
        with subprocess.Popen(
            [program, "--interval", "100"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                # Its first lines may be warnings.
                for _ in range(5):
                    found = parse_tegrastats(process.stdout.readline())
                    if found is not None:
                        return found
            finally:
                process.kill()
    except OSError:
        return None
    return None
