"""cuda-python's runtime and pycuda's driver on memory of the processor.

Addresses are real, so an engine's wrong pointer or size crashes or shows here too. `test_fakes.py` compares the names
and parameters of every function with the real module's.
"""

from __future__ import annotations

import ctypes
import enum
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np


class Streams:
    """Work that is done only when somebody waits for it, as late as events allow: a missing wait gives wrong data.

    Attributes:
        eager: Streams that do theirs as soon as events allow.
    """

    def __init__(self) -> None:
        self.queues: dict[int, deque[Callable[[], None]]] = {}
        self.recorded: dict[int, tuple[int, int]] = {}
        self._done: dict[int, int] = {}
        self._queued: dict[int, int] = {}
        self.eager: set[int] = set()
        self.capturing: int | None = None
        self.captured: list[Callable[[], None]] = []
        self.waits = 0

    def make(self) -> int:
        stream = 7 + len(self._queued)
        self.queues[stream], self._done[stream], self._queued[stream] = deque(), 0, 0
        return stream

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        if self.capturing == stream:
            self.captured.append(work)
            return
        self.queues[stream].append(work)
        self._queued[stream] += 1
        if stream in self.eager:
            self.run(stream, self._queued[stream])

    def record(self, event: int, stream: int) -> None:
        self.recorded[event] = (stream, self._queued[stream])

    def wait(self, stream: int, event: int) -> None:
        source, until = self.recorded[event]
        self.queue(stream, lambda: self.run(source, until))

    def run(self, stream: int, until: int) -> None:
        while self._done[stream] < until:
            self._done[stream] += 1
            self.queues[stream].popleft()()

    def synchronize(self, stream: int) -> None:
        self.waits += 1
        self.run(stream, self._queued[stream])


class FakeRuntime:
    """``cuda.bindings.runtime``."""

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaDeviceAttr(enum.IntEnum):
        cudaDevAttrIntegrated = 18
        cudaDevAttrCanMapHostMemory = 19

    class cudaStreamCaptureMode(enum.IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(
        self,
        name: bytes = b"Orin",
        sm: tuple[int, int] = (8, 7),
        free: int = 2**33,
        devices: int = 1,
        integrated: bool = False,
    ) -> None:
        self._name, self._sm, self._free, self._devices = name, sm, free, devices
        self._integrated = integrated
        self.device: dict[int, object] = {}
        self.host: dict[int, object] = {}
        self.events: set[int] = set()
        self.graphs: dict[object, list[Callable[[], None]]] = {}
        self.launched = 0
        self.copied = 0
        self.work = Streams()

    @property
    def streams(self) -> set[int]:
        return set(self.work.queues)

    def cudaGetDeviceCount(self):
        return (0, self._devices) if self._devices else (100, None)

    def cudaRuntimeGetVersion(self):
        return 0, 12060

    def cudaDriverGetVersion(self):
        return 0, 12060

    def cudaGetErrorString(self, error):
        texts = {
            100: b"no CUDA-capable device is detected",
            2: b"out of memory",
            700: b"an illegal memory access was encountered",
        }
        return 0, texts.get(int(error), b"unknown error")

    def cudaGetLastError(self):
        return (0,)

    def cudaGetDeviceProperties(self, device):
        return 0, SimpleNamespace(name=self._name, major=self._sm[0], minor=self._sm[1])

    def cudaDeviceGetAttribute(self, attr, device):
        return 0, int(self._integrated or attr == self.cudaDeviceAttr.cudaDevAttrCanMapHostMemory)

    def cudaMemGetInfo(self):
        return 0, self._free, 2 * self._free

    def cudaStreamCreate(self):
        return 0, self.work.make()

    def cudaStreamDestroy(self, stream):
        assert not self.work.queues.pop(stream), "a stream is ended while it has work"
        return (0,)

    def cudaStreamSynchronize(self, stream):
        if stream not in self.streams:
            return (400,)
        self.work.synchronize(stream)
        return (0,)

    def cudaEventCreateWithFlags(self, flags):
        self.events.add(len(self.events) + 100)
        return 0, len(self.events) + 99

    def cudaEventDestroy(self, event):
        self.events.remove(event)
        return (0,)

    def cudaEventRecord(self, event, stream):
        self.work.record(event, stream)
        return (0,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        self.work.wait(stream, event)
        return (0,)

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

    def cudaHostAlloc(self, size, flags):
        assert flags == 2
        return self._allocate(self.host, size)

    def cudaHostGetDevicePointer(self, pHost, flags):
        return (0, pHost) if pHost in self.host and not flags else (1, None)

    def cudaFreeHost(self, ptr):
        del self.host[ptr]
        return (0,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        target, store = (dst, self.device) if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else (src, self.device)
        if stream not in self.streams or target not in store or count > ctypes.sizeof(store[target]):
            return (1,)
        self.copied += count
        self.work.queue(stream, lambda: ctypes.memmove(dst, src, count))
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert self.work.capturing is None
        self.work.capturing, self.work.captured = stream, []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        assert self.work.capturing == stream
        self.work.capturing = None
        graph = object()
        self.graphs[graph] = self.work.captured
        return 0, graph

    def cudaGraphInstantiate(self, graph, flags):
        made = object()
        self.graphs[made] = self.graphs[graph]
        return 0, made

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (0,)

    def cudaGraphLaunch(self, graphExec, stream):
        self.launched += 1
        for work in self.graphs[graphExec]:
            self.work.queue(stream, work)
        return (0,)

    def cudaGraphExecDestroy(self, graphExec):
        del self.graphs[graphExec]
        return (0,)


class FakeDriver:
    """The parts of ``pycuda.driver`` in use; names and parameters as in pycuda's documentation."""

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
            name=lambda: "Orin",
            compute_capability=lambda: (8, 7),
            retain_primary_context=lambda: self,
            get_attribute=lambda attribute: 1,
        )

    def push(self) -> None:
        self.pushed += 1

    def pop(self) -> None:
        self.pushed -= 1

    def mem_get_info(self) -> tuple[int, int]:
        return 2**32, 2**33

    class event_flags(enum.IntEnum):
        DISABLE_TIMING = 2

    class host_alloc_flags(enum.IntEnum):
        DEVICEMAP = 2

    class device_attribute(enum.IntEnum):
        INTEGRATED = 18
        CAN_MAP_HOST_MEMORY = 19

    def Stream(self):
        return SimpleNamespace(handle=3, synchronize=lambda: None, wait_for_event=lambda event: event.waited())

    def Event(self, flags: int = 0):
        done: list[object] = []
        return SimpleNamespace(record=done.append, waited=lambda: done[-1])

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

    def pagelocked_empty(self, shape: int, dtype: type, mem_flags: int = 0) -> np.ndarray:
        driver = self
        driver.alive += 1

        class Locked(np.ndarray):
            def free(self) -> None:
                driver.alive -= 1

            def get_device_pointer(self) -> int:
                assert mem_flags == driver.host_alloc_flags.DEVICEMAP
                return int(self.ctypes.data)

        return np.empty(shape, dtype).view(Locked)[:].view(np.ndarray)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: object) -> None:
        ctypes.memmove(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: object) -> None:
        ctypes.memmove(dest.ctypes.data, src, dest.nbytes)
