"""One measurement of memory in a fresh process: reads a specification on stdin, prints a report.

``python -m benchmarks.candidates.memory_probe`` is started by `benchmarks.memory`; nothing else should.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates.open import describe_manifest, open_candidate
from benchmarks.candidates.spec import Spec
from emra_deploy.errors import EmraError

RUNS = 3
_LIBRARIES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino", "onnx"),
    "tensorrt": ("emra_deploy.backends.tensorrt.backend",),
    "torch": ("benchmarks.candidates.torch_models",),
    "torch-compile": ("benchmarks.candidates.torch_models",),
}
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident() -> tuple[int, int]:
    """Resident bytes now, and their peak since the start of the process or `reset_peak`.

    The kernel's own count; ``ru_maxrss`` would include the parent's peak.
    """
    found = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
    now, peak = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def reset_peak() -> bool:
    """Reset the peak; returns False if the kernel refuses."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


class Shared:
    """Watches the free memory of the whole machine, which on a Jetson includes the GPU's."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self.free_before = self.least = psutil.virtual_memory().available
        self.swap_before = self.swap_most = psutil.swap_memory().used
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared-memory", daemon=True)

    def _look(self) -> None:
        self.least = min(self.least, self._psutil.virtual_memory().available)
        self.swap_most = max(self.swap_most, self._psutil.swap_memory().used)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._look()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._look()
            self._stop.set()
            self._thread.join()

    def to_dict(self) -> dict[str, int]:
        """JSON values."""
        return {"taken_bytes": self.free_before - self.least, "swap_bytes": self.swap_most - self.swap_before}


def probe(spec: Spec) -> dict[str, Any]:
    """Load and run a candidate, and report its memory.

    Returns:
        ``host`` with ``start_bytes`` (Python, NumPy and this project), ``library_bytes``, ``loaded_bytes``
        (added by loading the model), ``running_bytes`` (the most that running added; None if the kernel cannot tell)
        and ``peak_bytes``; ``device``; ``shared``; and the facts of the candidate.
    """
    shared = Shared()
    with shared.watching():
        start, _ = resident()
        for module in _LIBRARIES[spec.backend]:
            importlib.import_module(module)
        library, _ = resident()
        backend = open_candidate(spec, check=False)
        loaded, first_peak = resident()
        separate = reset_peak()
        batch = np.random.default_rng(0).integers(0, 256, (spec.batch, *backend.input_shape[1:], 3), np.uint8)
        for _ in range(RUNS):
            backend.run(batch)
        _, peak = resident()
    return {
        "host": {
            "start_bytes": start,
            "library_bytes": library - start,
            "loaded_bytes": loaded - library,
            "running_bytes": max(0, peak - loaded) if separate else None,
            "peak_bytes": max(first_peak, peak),
        },
        "device": _device(spec, backend),
        "shared": shared.to_dict(),
        "size": list(backend.input_shape[1:]),
        "backend": backend.describe(),
        "precision": backend.precision,
        "cuda_graph": backend.cuda_graph,
        "manifest": describe_manifest(spec, backend),
        "parameter_bytes": backend.parameter_bytes() if hasattr(backend, "parameter_bytes") else None,
    }


def _device(spec: Spec, timed: Any) -> dict[str, Any] | None:
    """Peak device memory, and the workspace if the backend reports it; None without a device."""
    if spec.backend == "tensorrt":
        from benchmarks.machine_state.nvml import Nvml

        nvml = Nvml.open()
        used = nvml.process_bytes() if nvml is not None else None
        return {"peak_bytes": used, "workspace_bytes": timed.backend.memory()}
    if spec.backend.startswith("torch"):
        import torch

        if torch.cuda.is_available():
            return {
                "peak_bytes": torch.cuda.max_memory_reserved(),
                "workspace_bytes": torch.cuda.max_memory_allocated(),
            }
    return None


def main() -> int:
    """Read a specification, print a report; an `EmraError` becomes a report, too."""
    asked = json.load(sys.stdin)
    path, size = asked.pop("path"), asked.pop("size")
    spec = Spec(path=Path(path) if path else None, size=tuple(size) if size else None, **asked)
    try:
        report = probe(spec)
    except EmraError as error:
        report = {"error": error.to_dict()}
    # Libraries print on stdout; the report is its last line.
    sys.stdout.write("\n" + json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
