"""The GPU and board that run an engine: identification and free memory."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from emra_deploy.backends.tensorrt.cuda import Cuda
from emra_deploy.backends.tensorrt.sidecar import Gpu, Machine
from emra_deploy.host.machine import (
    jetpack_of_release,
    parse_jetpack_package,
    parse_memory,
    parse_nvidia_smi,
    parse_tegra_release,
)


@dataclass(frozen=True)
class FreeMemory:
    """Memory available to an engine.

    Attributes:
        bytes: Free bytes.
        kind: ``"GPU"``, or ``"shared"`` if CPU and GPU share one memory, as on a Jetson.
    """

    bytes: int
    kind: str


def parse_driver(text: str) -> str | None:
    """The driver's version in ``/proc/driver/nvidia/version``."""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found.group(1) if found else None


def parse_mebibytes(text: str) -> int | None:
    """Bytes of nvidia-smi's ``"8123 MiB"``; None for the ``"[N/A]"`` of a Jetson."""
    found = re.fullmatch(r"(\d+) MiB", text.strip())
    return int(found.group(1)) * 2**20 if found else None


def describe_machine(cuda: Cuda | None) -> Machine:
    """Identification of this machine for the sidecar of an engine.

    Args:
        cuda: CUDA if there is a GPU; without it nvidia-smi is queried.
    """
    release = parse_tegra_release(_read("/etc/nv_tegra_release"))
    jetpack = parse_jetpack_package(_read("/var/lib/dpkg/status")) if release else None
    if jetpack is None and release is not None:
        jetpack = jetpack_of_release(release)
    driver = parse_driver(_read("/proc/driver/nvidia/version"))
    gpu = None
    if cuda is not None:
        facts = cuda.facts()
        gpu = Gpu(facts.name, facts.sm)
    else:
        for found in _ask_nvidia_smi()[:1]:
            driver = driver or found["driver"]
            if re.fullmatch(r"\d{1,2}\.\d", found["compute_capability"]):
                gpu = Gpu(found["name"], found["compute_capability"])
    return Machine(gpu, driver, jetpack, release, platform.machine() or "unknown")


def free_memory(cuda: Cuda | None) -> FreeMemory | None:
    """Free memory for an engine; None without a GPU.

    On a Jetson this is the kernel's figure: CUDA's excludes caches that the kernel would release.
    """
    if parse_tegra_release(_read("/etc/nv_tegra_release")) is not None:
        available = parse_memory(_read("/proc/meminfo"))[1]
        return None if available is None else FreeMemory(available, "shared")
    if cuda is not None:
        return FreeMemory(cuda.facts().free, "GPU")
    for found in _ask_nvidia_smi()[:1]:
        size = parse_mebibytes(found["memory"])
        if size is not None:
            return FreeMemory(size, "GPU")
    return None


def _ask_nvidia_smi() -> list[dict[str, str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.free,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_nvidia_smi(done.stdout) if done.returncode == 0 else []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
