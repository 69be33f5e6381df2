"""NVIDIA desktop and server GPUs through NVML (nvidia-ml-py); Jetsons have no NVML before JetPack 7."""

from __future__ import annotations

from typing import Any

from emra_deploy.host.throttling import gpu_reasons


class Nvml:
    """The GPUs of this machine.

    Args:
        library: The module ``pynvml``, initialised.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        count = library.nvmlDeviceGetCount()
        self.handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    @classmethod
    def open(cls) -> Nvml | None:
        """The GPUs, or None without the library, the driver or any GPU."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            found = cls(pynvml)
        except pynvml.NVMLError:
            return None
        return found if found.handles else None

    def joules(self) -> float | None:
        """Energy of all GPUs since the driver was loaded; None before Volta."""
        return self._sum("nvmlDeviceGetTotalEnergyConsumption")

    def watts(self) -> float | None:
        """Power of all GPUs, averaged by the driver over up to a second."""
        return self._sum("nvmlDeviceGetPowerUsage")

    def process_bytes(self) -> int | None:
        """Memory of this process on all GPUs; None if the driver does not report it (containers, Windows)."""
        import os

        found = [
            entry.usedGpuMemory
            for handle in self.handles
            for entry in self._try("nvmlDeviceGetComputeRunningProcesses", handle) or ()
            if entry.pid == os.getpid() and entry.usedGpuMemory is not None
        ]
        return sum(found) if found else None

    def _sum(self, function: str) -> float | None:
        try:
            return float(sum(getattr(self._library, function)(handle) for handle in self.handles)) / 1000
        except self._library.NVMLError:
            return None

    def describe(self) -> list[dict[str, Any]]:
        """State of each GPU: clocks in Hz, temperature in degrees Celsius, power limit, and reasons for throttling."""
        return [self._describe(handle) for handle in self.handles]

    def _describe(self, handle: Any) -> dict[str, Any]:
        library = self._library
        name = library.nvmlDeviceGetName(handle)
        limit = self._try("nvmlDeviceGetEnforcedPowerLimit", handle)
        clock = self._try("nvmlDeviceGetClockInfo", handle, getattr(library, "NVML_CLOCK_SM", 1))
        memory = self._try("nvmlDeviceGetMemoryInfo", handle)
        return {
            "name": name.decode() if isinstance(name, bytes) else name,
            "sm_hz": None if clock is None else clock * 1_000_000,
            "celsius": self._try("nvmlDeviceGetTemperature", handle, getattr(library, "NVML_TEMPERATURE_GPU", 0)),
            "limit_watts": None if limit is None else limit / 1000,
            "throttled_by": gpu_reasons(library, handle),
            "memory_total": None if memory is None else memory.total,
            "memory_used": None if memory is None else memory.used,
        }

    def _try(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._library, function)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None
