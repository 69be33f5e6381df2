"""cuda-python's runtime and pycuda's driver on memory of the processor.

Addresses are real, so an engine's wrong pointer or size crashes or shows here too. `test_fakes.py` compares the names
and parameters of every function with the real module's.
"""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace

import numpy as np


class FakeRuntime:
    """``cuda.bindings.runtime``."""

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    def __init__(
        self, name: bytes = b"Orin", sm: tuple[int, int] = (8, 7), free: int = 2**33, devices: int = 1
    ) -> None:
        self._name, self._sm, self._free, self._devices = name, sm, free, devices
        self.device: dict[int, object] = {}
        self.host: dict[int, object] = {}
        self.streams: set[int] = set()

    def cudaGetDeviceCount(self):
        return (0, self._devices) if self._devices else (100, None)

    def cudaGetErrorString(self, error):
        return 0, {
            100: b"no CUDA-capable device is detected",
            2: b"out of memory",
            700: b"an illegal memory access was encountered",
        }.get(int(error), b"unknown error")

    def cudaGetDeviceProperties(self, device):
        return 0, SimpleNamespace(name=self._name, major=self._sm[0], minor=self._sm[1])

    def cudaMemGetInfo(self):
        return 0, self._free, 2 * self._free

    def cudaStreamCreate(self):
        self.streams.add(len(self.streams) + 7)
        return 0, len(self.streams) + 6

    def cudaStreamDestroy(self, stream):
        self.streams.remove(stream)
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,) if stream in self.streams else (400,)

    def _allocate(self, store: dict[int, object], size: int):
        if size > self._free:
            return 2, None
        memory = (ctypes.c_uint8 * size)(*([0xAB] * min(size, 16)))
        store[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cudaMalloc(self, size):
        return self._allocate(self.device, size)

    def cudaFree(self, devPtr):
        del self.device[devPtr]
        return (0,)

    def cudaMallocHost(self, size):
        return self._allocate(self.host, size)

    def cudaFreeHost(self, ptr):
        del self.host[ptr]
        return (0,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        target, store = (dst, self.device) if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else (src, self.device)
        if stream not in self.streams or target not in store or count > ctypes.sizeof(store[target]):
            return (1,)
        ctypes.memmove(dst, src, count)
        return (0,)


class FakeDriver:
    """``pycuda.driver``, as far as it is used; names and parameters as in pycuda's documentation."""

    class Error(Exception):
        pass

    def __init__(self, devices: int = 1) -> None:
        self._devices = devices
        self.pushed = 0
        self.alive = 0
        self.mem_alloc = self._counted(self._mem_alloc)
        self.Device = self._device

    def _counted(self, make):
        def counted(*arguments):
            if not self.pushed:
                raise self.Error("invalid device context")
            return make(*arguments)

        return counted

    def init(self) -> None:
        if not self._devices:
            raise self.Error("no CUDA-capable device is detected")

    def _device(self, number: int):
        return SimpleNamespace(
            name=lambda: "Orin", compute_capability=lambda: (8, 7), retain_primary_context=lambda: self
        )

    def push(self) -> None:
        self.pushed += 1

    def pop(self) -> None:
        self.pushed -= 1

    def mem_get_info(self) -> tuple[int, int]:
        return 2**32, 2**33

    def Stream(self):
        return SimpleNamespace(handle=3, synchronize=lambda: None)

    def _mem_alloc(self, bytes: int):
        if bytes > 2**32:
            raise MemoryError("cuMemAlloc failed: out of memory")
        driver, memory = self, (ctypes.c_uint8 * bytes)()
        driver.alive += 1

        class Allocation:
            def __int__(self) -> int:
                return ctypes.addressof(memory)

            def free(self) -> None:
                driver.alive -= 1

        return Allocation()

    def pagelocked_empty(self, shape: int, dtype: type) -> np.ndarray:
        driver = self
        driver.alive += 1

        class Locked(np.ndarray):
            def free(self) -> None:
                driver.alive -= 1

        return np.empty(shape, dtype).view(Locked)[:].view(np.ndarray)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: object) -> None:
        ctypes.memmove(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: object) -> None:
        ctypes.memmove(dest.ctypes.data, src, dest.nbytes)
