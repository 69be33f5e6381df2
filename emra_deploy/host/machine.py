"""Facts about the machine and its libraries, for ``emra doctor``. The parsers take text, for tests."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command, pip_install
from emra_deploy.host.slow_steps import step

CUDA_PATIENCE = 30.0
"""Seconds after which opening CUDA counts as hung."""

# Processor features that decide the speed of INT8 and FP16, by their names in /proc/cpuinfo.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI (INT8)",
    "avx_vnni": "AVX VNNI (INT8)",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "INT8 dot product",
    "i8mm": "INT8 matrix",
    "bf16": "BF16",
    "sve": "SVE",
}
# Jetson Linux release to JetPack, from NVIDIA's release pages; the nvidia-jetpack package is asked first.
_JETPACKS = {
    "35.4": "5.1.2",
    "35.5": "5.1.3",
    "35.6": "5.1.4",
    "36.2": "6.0 developer preview",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "38.2": "7.0",
    "38.4": "7.1",
}

_TENSORRT_FLOOR = "JetPack {} has TensorRT {}, older than the 10.3 that models need: install JetPack 6.1 or newer"
# Notes for users of a JetPack about its TensorRT.
_JETPACK_NOTES = {
    "5": _TENSORRT_FLOOR.format("5", "8.5"),
    "6.0": _TENSORRT_FLOOR.format("6.0", "8.6"),
    "6.1": "its TensorRT 10.3 is known for wrong FP16 results: trust only models that pass the self-test here",
    "6.2": "its TensorRT 10.3 is known for wrong FP16 results: trust only models that pass the self-test here",
}


@dataclass(frozen=True)
class Library:
    """An optional library of the toolkit.

    Attributes:
        name: Name for people.
        modules: Names of its module.
        packages: Names of the packages that have it.
        purpose: Its use here.
        remedy: How to install it.
    """

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    purpose: str
    remedy: str

    def version(self) -> str | None:
        """Its version, ``"unknown"`` if it has no metadata, or None if it is not installed.

        Nothing is imported: a broken GPU library must not crash the doctor.
        """
        if not any(_importable(module) for module in self.modules):
            return None
        for package in self.packages:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return "unknown"


LIBRARIES = (
    Library(
        "onnxruntime",
        ("onnxruntime",),
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
        "runs ONNX models",
        install_command("runtime"),
    ),
    Library("openvino", ("openvino",), ("openvino",), "fast on processors", install_command("openvino")),
    Library(
        "tensorrt",
        ("tensorrt",),
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "NVIDIA GPUs and Jetson",
        f"JetPack: sudo apt install tensorrt; elsewhere: {install_command('tensorrt')}",
    ),
    Library(
        "tensorrt_rtx",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "GeForce and RTX GPUs",
        install_command("rtx"),
    ),
    Library(
        "cuda-python",
        ("cuda.bindings", "cuda.cuda"),
        ("cuda-python", "cuda-bindings"),
        "GPU memory for TensorRT",
        f"CUDA 12 (JetPack 6): {install_command('cuda12')}; CUDA 13: {install_command('cuda13')}",
    ),
    Library("pycuda", ("pycuda",), ("pycuda",), "the same, where cuda-python is not", pip_install("pycuda")),
    Library("rasterio", ("rasterio",), ("rasterio",), "GeoTIFF", install_command("raster")),
    Library("PyAV", ("av",), ("av",), "video and cameras", install_command("video")),
)


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def parse_cpu_model(cpuinfo: str) -> str | None:
    """The processor's name in ``/proc/cpuinfo``; ARM kernels give none."""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else None


def parse_cpu_features(cpuinfo: str) -> list[str]:
    """The instruction sets in ``/proc/cpuinfo``, x86 or ARM, that affect inference, by readable names."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    words = set(found.group(1).split()) if found else set()
    return [name for flag, name in _FEATURES.items() if flag in words]


def parse_memory(meminfo: str) -> tuple[int | None, int | None]:
    """Total and available bytes in ``/proc/meminfo``."""
    sizes = {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes; None if the system does not report it.

    Not ``getrusage``: a child starts with its parent's peak.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def parse_device_tree_model(content: bytes) -> str | None:
    """The board's name in ``/proc/device-tree/model``, which ends in a zero byte."""
    text = content.rstrip(b"\0").decode("utf-8", "replace").strip()
    return text or None


def parse_tegra_release(text: str) -> str | None:
    """The Jetson Linux release in ``/etc/nv_tegra_release``, such as ``"36.4.3"``."""
    found = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def parse_jetpack_package(dpkg_status: str) -> str | None:
    """The version of the package nvidia-jetpack in ``/var/lib/dpkg/status``, such as ``"6.2"``."""
    found = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", dpkg_status, re.MULTILINE)
    return found.group(1) if found else None


def jetpack_of_release(release: str) -> str | None:
    """The JetPack of a Jetson Linux release, or None if it is unknown."""
    parts = release.split(".")
    for length in (3, 2):
        known = _JETPACKS.get(".".join(parts[:length]))
        if known is not None:
            return known
    return None


def jetpack_note(jetpack: str) -> str | None:
    """Note for users of a JetPack about its TensorRT, or None."""
    number = re.match(r"(\d+)(?:\.(\d+))?", jetpack)
    if number is None:
        return None
    return _JETPACK_NOTES.get(f"{number[1]}.{number[2] or 0}") or _JETPACK_NOTES.get(number[1])


def parse_nvidia_smi(text: str) -> list[dict[str, str]]:
    """GPUs in nvidia-smi's ``csv,noheader`` output of name, memory.total, driver_version and compute_cap."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4:
            gpus.append(dict(zip(("name", "memory", "driver", "compute_capability"), cells, strict=True)))
    return gpus


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _jetson() -> dict[str, str | None] | None:
    try:
        board = parse_device_tree_model(Path("/proc/device-tree/model").read_bytes())
    except OSError:
        board = None
    release = parse_tegra_release(_read("/etc/nv_tegra_release"))
    if release is None and "jetson" not in (board or "").lower():
        return None
    jetpack = parse_jetpack_package(_read("/var/lib/dpkg/status"))
    if jetpack is None and release is not None:
        jetpack = jetpack_of_release(release)
    return {"board": board, "jetson_linux": release, "jetpack": jetpack, "note": jetpack_note(jetpack or "")}


def _gpus() -> list[dict[str, str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_nvidia_smi(done.stdout) if done.returncode == 0 else []


def _cuda() -> dict[str, Any]:
    """Whether engines can use CUDA, found by a child process, which a broken driver may crash or hang."""
    code = (
        f"import json, sys; sys.path[:] = {sys.path!r}\n"
        "from emra_deploy.backends.tensorrt.cuda import cuda_state; print(json.dumps(cuda_state()))"
    )
    try:
        with step("opening CUDA"):
            done = subprocess.run(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CUDA_PATIENCE,
                check=False,
            )
        state: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        what = "hangs" if isinstance(error, subprocess.TimeoutExpired) else "crashes"
        fault = EmraError(
            "gpu-start", f"CUDA {what} when it is opened", "See dmesg for what the driver says, then reboot"
        )
        return {"gpu": None, "compute_capability": None, "error": fault.to_dict()}
    return state


def _providers() -> list[str]:
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:
        # A wheel for another machine may fail in any way; the doctor has to survive it.
        return []


def collect(libraries: Iterable[Library] = LIBRARIES) -> dict[str, Any]:
    """All facts, as JSON values."""
    cpuinfo = _read("/proc/cpuinfo")
    total, available = parse_memory(_read("/proc/meminfo"))
    found: dict[str, Any] = {
        library.name: {"version": library.version(), "purpose": library.purpose, "remedy": library.remedy}
        for library in libraries
    }
    if found.get("onnxruntime", {}).get("version") is not None:
        found["onnxruntime"]["providers"] = _providers()
    opens_cuda = any(found.get(name, {}).get("version") is not None for name in ("cuda-python", "pycuda"))
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": {
            "name": parse_cpu_model(cpuinfo),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "features": parse_cpu_features(cpuinfo),
        },
        "memory": {"total": total, "available": available},
        "jetson": _jetson(),
        "gpus": _gpus(),
        "cuda": _cuda() if opens_cuda else None,
        "libraries": found,
    }
