"""The chip's ceilings: exponentials and matrix products per second, each measured alone."""

from __future__ import annotations

import ctypes
import dataclasses
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.rows import Row
from benchmarks.gpu.timing import time_graphs

SOURCE = Path(__file__).with_name("ceilings.cu")
_KINDS = {"exponentials": 0, "half_exponentials": 1, "products": 2}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Per second. `products` counts the operations of FP16 ``mma.sync`` with FP32 sums, 2 per multiply-add."""

    exponentials: float
    half_exponentials: float
    products: float

    def rows(self) -> list[Row]:
        """For the table."""
        section = "ceilings of this chip"
        return [
            Row(section, "exponentials, ex2.approx.f32", self.exponentials / 1e12, "T/s"),
            Row(section, "exponentials, ex2.approx.f16x2", self.half_exponentials / 1e12, "T/s"),
            Row(section, "mma.sync FP16, FP32 sums", self.products / 1e12, "TFLOP/s"),
        ]


def measure_ceilings(library: Path) -> Ceilings:
    """Run each kernel of `ceilings.cu` with eight full waves of blocks."""
    loaded = ctypes.CDLL(str(library))
    loaded.emra_ceiling.restype = ctypes.c_double
    loaded.emra_ceiling.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    blocks = torch.cuda.get_device_properties(0).multi_processor_count * 8 * 8
    out = torch.zeros(1, device="cuda")

    def launch(kind: int) -> float:
        work = loaded.emra_ceiling(kind, blocks, out.data_ptr(), torch.cuda.current_stream().cuda_stream)
        if work < 0:
            raise RuntimeError(f"ceiling {kind}: the launch failed")
        return float(work)

    work = {name: launch(kind) for name, kind in _KINDS.items()}
    times, failures = time_graphs({name: [partial(launch, kind)] for name, kind in _KINDS.items()}, rounds=5)
    if failures:
        raise RuntimeError(f"the ceilings could not be timed: {failures}")
    return Ceilings(**{name: work[name] / times[name][0] for name in _KINDS})
