"""CUDA through cuda-python's runtime interface."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from emra_deploy.backends.tensorrt.cuda_base import Bytes, DeviceFacts, failed
from emra_deploy.backends.tensorrt.cuda_unusable import LACKING, driver_is_missing, no_driver, unusable

_MAPPED, _WITHOUT_TIMING = 2, 2
"""``cudaHostAllocMapped`` and ``cudaEventDisableTiming``."""


class _Guarded:
    """cuda-python's module, its RuntimeErrors translated into `EmraError`.

    Releases up to 12.8 look for the driver and its functions at the first call.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        if isinstance(found, type) or not callable(found):
            return found

        def call(*arguments: Any) -> Any:
            try:
                return found(*arguments)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise (no_driver(reason) if driver_is_missing() else unusable(LACKING, reason)) from error

        return call


class CudaPython:
    """`Cuda` over cuda-python's runtime interface.

    Args:
        runtime: The module ``cuda.bindings.runtime`` or ``cuda.cudart``.

    Raises:
        EmraError: The reason why CUDA cannot be used; see `emra_deploy.backends.tensorrt.cuda_unusable`.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = _Guarded(runtime)
        error, count = self._runtime.cudaGetDeviceCount()
        if int(error) != 0 or not count:
            found_none = 100
            number, reason = int(error) or found_none, self._describe(error) if int(error) else "none found"
            raise unusable(number, reason, runtime=self._version("Runtime"), driver=self._version("Driver"))
        self._graphs: dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def _version(self, of: str) -> int | None:
        """CUDA version of the ``"Runtime"`` or the ``"Driver"``, such as 12060; None if it is not reported."""
        error, version = getattr(self._runtime, f"cuda{of}GetVersion")()
        return None if int(error) else int(version)

    def _describe(self, error: Any) -> str:
        text = self._runtime.cudaGetErrorString(error)[1]
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)

    def _done(self, answer: tuple[Any, ...], what: str) -> Any:
        """Return the value of a (status, value) result, or raise the error it reports."""
        if int(answer[0]) != 0:
            raise failed(what, self._describe(answer[0]), int(answer[0]))
        return answer[1] if len(answer) > 1 else None

    def facts(self) -> DeviceFacts:
        """Implement `Cuda.facts`."""
        found = self._done(self._runtime.cudaGetDeviceProperties(0), "describing the GPU")
        answer = self._runtime.cudaMemGetInfo()
        self._done(answer, "asking for free GPU memory")
        name = found.name.decode(errors="replace") if isinstance(found.name, bytes) else str(found.name)
        return DeviceFacts(name.rstrip("\0"), f"{found.major}.{found.minor}", int(answer[1]), int(answer[2]))

    def stream(self) -> int:
        """Implement `Cuda.stream`."""
        return int(self._done(self._runtime.cudaStreamCreate(), "making a stream"))

    def free_stream(self, stream: int) -> None:
        """Implement `Cuda.free_stream`."""
        self._done(self._runtime.cudaStreamDestroy(stream), "ending a stream")

    def synchronize(self, stream: int) -> None:
        """Implement `Cuda.synchronize`."""
        self._done(self._runtime.cudaStreamSynchronize(stream), "running the engine")

    def device(self, size: int) -> int:
        """Implement `Cuda.device`."""
        return int(self._done(self._runtime.cudaMalloc(size), f"reserving {size} bytes of GPU memory"))

    def free_device(self, address: int) -> None:
        """Implement `Cuda.free_device`."""
        self._done(self._runtime.cudaFree(address), "giving GPU memory back")

    def host(self, size: int) -> Bytes:
        """Implement `Cuda.host`."""
        address = int(self._done(self._runtime.cudaMallocHost(size), f"reserving {size} bytes of page-locked memory"))
        memory: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return memory

    def free_host(self, memory: Bytes) -> None:
        """Implement `Cuda.free_host`."""
        self._done(self._runtime.cudaFreeHost(memory.ctypes.data), "giving page-locked memory back")

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """Implement `Cuda.upload`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        answer = self._runtime.cudaMemcpyAsync(address, memory.ctypes.data, memory.nbytes, kind, stream)
        self._done(answer, "copying to the GPU")

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """Implement `Cuda.download`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        answer = self._runtime.cudaMemcpyAsync(memory.ctypes.data, address, memory.nbytes, kind, stream)
        self._done(answer, "copying from the GPU")

    @property
    def integrated(self) -> bool:
        """Implement `Cuda.integrated`."""
        kinds = self._runtime.cudaDeviceAttr
        answers = (
            self._done(self._runtime.cudaDeviceGetAttribute(kind, 0), "describing the GPU")
            for kind in (kinds.cudaDevAttrIntegrated, kinds.cudaDevAttrCanMapHostMemory)
        )
        return all(int(answer) for answer in answers)

    def mapped(self, size: int) -> tuple[Bytes, int]:
        """Implement `Cuda.mapped`."""
        what = f"reserving {size} bytes of shared memory"
        place = int(self._done(self._runtime.cudaHostAlloc(size, _MAPPED), what))
        address = int(self._done(self._runtime.cudaHostGetDevicePointer(place, 0), what))
        memory: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(place))
        return memory, address

    def event(self) -> int:
        """Implement `Cuda.event`."""
        return int(self._done(self._runtime.cudaEventCreateWithFlags(_WITHOUT_TIMING), "making an event"))

    def free_event(self, event: int) -> None:
        """Implement `Cuda.free_event`."""
        self._done(self._runtime.cudaEventDestroy(event), "ending an event")

    def record(self, event: int, stream: int) -> None:
        """Implement `Cuda.record`."""
        self._done(self._runtime.cudaEventRecord(event, stream), "recording an event")

    def wait(self, stream: int, event: int) -> None:
        """Implement `Cuda.wait`."""
        self._done(self._runtime.cudaStreamWaitEvent(stream, event, 0), "waiting for an event")

    @property
    def captures(self) -> bool:
        """Implement `Cuda.captures`."""
        return True

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Implement `Cuda.capture`."""
        runtime = self._runtime
        # For this thread only: other threads may allocate meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done(runtime.cudaStreamBeginCapture(stream, mode), "capturing a graph")
        worked = False
        try:
            worked = work()
        finally:
            # The stream must leave capture mode even after an error.
            answer = runtime.cudaStreamEndCapture(stream)
        if not worked or int(answer[0]) != 0:
            # Otherwise the next call would report the error.
            runtime.cudaGetLastError()
            return None
        made = runtime.cudaGraphInstantiate(answer[1], 0)
        self._done(runtime.cudaGraphDestroy(answer[1]), "ending a graph")
        if int(made[0]) != 0:
            runtime.cudaGetLastError()
            return None
        number = next(self._numbers)
        self._graphs[number] = made[1]
        return number

    def launch(self, graph: int, stream: int) -> None:
        """Implement `Cuda.launch`."""
        self._done(self._runtime.cudaGraphLaunch(self._graphs[graph], stream), "running a graph")

    def free_graph(self, graph: int) -> None:
        """Implement `Cuda.free_graph`."""
        self._done(self._runtime.cudaGraphExecDestroy(self._graphs.pop(graph)), "ending a graph")
