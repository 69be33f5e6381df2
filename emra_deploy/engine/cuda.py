"""GPU memory and streams, as TensorRT wants them: pointers and streams as whole numbers.

Two libraries can give them, behind one small protocol: cuda-python (``cuda.bindings.runtime``, or ``cuda.cudart``
before 12.8) and pycuda. Which functions of theirs are used is in the two classes below, and nowhere else.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.engine.gpu_errors import LOST, MEMORY, RESTART, fault_of
from emra_deploy.errors import EmraError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DeviceFacts:
    """The GPU in use.

    Attributes:
        name: As its driver calls it.
        sm: Compute capability, such as ``"8.7"``.
        free: Free memory in bytes.
        total: All memory in bytes.
    """

    name: str
    sm: str
    free: int
    total: int


class Cuda(Protocol):
    """What running an engine needs of CUDA; all sizes in bytes. Any thread may call."""

    def facts(self) -> DeviceFacts:
        """The first GPU."""
        ...

    def stream(self) -> int:
        """A new stream."""
        ...

    def free_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until the stream has done all its work."""
        ...

    def device(self, size: int) -> int:
        """The address of new GPU memory."""
        ...

    def free_device(self, address: int) -> None:
        """Give GPU memory back."""
        ...

    def host(self, size: int) -> Bytes:
        """New page-locked memory, which copies to and from the GPU need to run beside other work."""
        ...

    def free_host(self, memory: Bytes) -> None:
        """Give page-locked memory back."""
        ...

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """Queue a copy of ``memory`` to the GPU."""
        ...

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """Queue a copy from the GPU into ``memory``."""
        ...


class CudaPython:
    """`Cuda` over cuda-python's runtime interface.

    Args:
        runtime: The module ``cuda.bindings.runtime`` or ``cuda.cudart``.

    Raises:
        EmraError: ``no-gpu`` when there is no GPU that this driver and library can use.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        error, count = runtime.cudaGetDeviceCount()
        if int(error) != 0 or not count:
            raise _no_gpu("none found" if int(error) == 0 else self._describe(error))

    def _describe(self, error: Any) -> str:
        text = self._runtime.cudaGetErrorString(error)[1]
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)

    def _done(self, answer: tuple[Any, ...], what: str) -> Any:
        """The value of an answer (status, value), or the error it reports."""
        if int(answer[0]) != 0:
            raise _failed(what, self._describe(answer[0]))
        return answer[1] if len(answer) > 1 else None

    def facts(self) -> DeviceFacts:
        """See `Cuda.facts`."""
        found = self._done(self._runtime.cudaGetDeviceProperties(0), "describing the GPU")
        answer = self._runtime.cudaMemGetInfo()
        self._done(answer, "asking for free GPU memory")
        name = found.name.decode(errors="replace") if isinstance(found.name, bytes) else str(found.name)
        return DeviceFacts(name.rstrip("\0"), f"{found.major}.{found.minor}", int(answer[1]), int(answer[2]))

    def stream(self) -> int:
        """See `Cuda.stream`."""
        return int(self._done(self._runtime.cudaStreamCreate(), "making a stream"))

    def free_stream(self, stream: int) -> None:
        """See `Cuda.free_stream`."""
        self._done(self._runtime.cudaStreamDestroy(stream), "ending a stream")

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        self._done(self._runtime.cudaStreamSynchronize(stream), "running the engine")

    def device(self, size: int) -> int:
        """See `Cuda.device`."""
        return int(self._done(self._runtime.cudaMalloc(size), f"reserving {size} bytes of GPU memory"))

    def free_device(self, address: int) -> None:
        """See `Cuda.free_device`."""
        self._done(self._runtime.cudaFree(address), "giving GPU memory back")

    def host(self, size: int) -> Bytes:
        """See `Cuda.host`."""
        address = int(self._done(self._runtime.cudaMallocHost(size), f"reserving {size} bytes of page-locked memory"))
        memory: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return memory

    def free_host(self, memory: Bytes) -> None:
        """See `Cuda.free_host`."""
        self._done(self._runtime.cudaFreeHost(memory.ctypes.data), "giving page-locked memory back")

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """See `Cuda.upload`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        answer = self._runtime.cudaMemcpyAsync(address, memory.ctypes.data, memory.nbytes, kind, stream)
        self._done(answer, "copying to the GPU")

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """See `Cuda.download`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        answer = self._runtime.cudaMemcpyAsync(memory.ctypes.data, address, memory.nbytes, kind, stream)
        self._done(answer, "copying from the GPU")


class PyCuda:
    """`Cuda` over pycuda's driver interface, in the GPU's primary context, which TensorRT uses too.

    Args:
        driver: The module ``pycuda.driver``.

    Raises:
        EmraError: ``no-gpu`` when there is no GPU that this driver and library can use.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        try:
            driver.init()
            self._device = driver.Device(0)
            self._context = self._device.retain_primary_context()
        except driver.Error as error:
            raise _no_gpu(str(error)) from error
        # pycuda frees what is no longer held, so it is held here by its address.
        self._held: dict[int, Any] = {}
        self._lock = threading.Lock()

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Work in the context, which pycuda binds to threads."""
        self._context.push()
        try:
            yield
        except (self._driver.Error, MemoryError) as error:
            raise _failed(what, str(error)) from error
        finally:
            self._context.pop()

    def _hold(self, key: int, what: Any) -> int:
        with self._lock:
            self._held[key] = what
        return key

    def _drop(self, key: int) -> Any:
        with self._lock:
            return self._held.pop(key)

    def facts(self) -> DeviceFacts:
        """See `Cuda.facts`."""
        with self._doing("describing the GPU"):
            free, total = self._driver.mem_get_info()
        major, minor = self._device.compute_capability()
        return DeviceFacts(str(self._device.name()), f"{major}.{minor}", int(free), int(total))

    def stream(self) -> int:
        """See `Cuda.stream`."""
        with self._doing("making a stream"):
            stream = self._driver.Stream()
        return self._hold(int(stream.handle), stream)

    def free_stream(self, stream: int) -> None:
        """See `Cuda.free_stream`."""
        with self._doing("ending a stream"):
            self._drop(stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        with self._doing("running the engine"):
            self._held[stream].synchronize()

    def device(self, size: int) -> int:
        """See `Cuda.device`."""
        with self._doing(f"reserving {size} bytes of GPU memory"):
            memory = self._driver.mem_alloc(size)
        return self._hold(int(memory), memory)

    def free_device(self, address: int) -> None:
        """See `Cuda.free_device`."""
        with self._doing("giving GPU memory back"):
            self._drop(address).free()

    def host(self, size: int) -> Bytes:
        """See `Cuda.host`."""
        with self._doing(f"reserving {size} bytes of page-locked memory"):
            memory: Bytes = self._driver.pagelocked_empty(size, np.uint8)
        return memory

    def free_host(self, memory: Bytes) -> None:
        """See `Cuda.free_host`."""
        with self._doing("giving page-locked memory back"):
            memory.base.free()  # type: ignore[union-attr]

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """See `Cuda.upload`."""
        with self._doing("copying to the GPU"):
            self._driver.memcpy_htod_async(address, memory, self._held[stream])

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """See `Cuda.download`."""
        with self._doing("copying from the GPU"):
            self._driver.memcpy_dtoh_async(memory, address, self._held[stream])


def open_cuda() -> Cuda:
    """CUDA through whichever library is here, cuda-python first.

    Raises:
        EmraError: ``backend-missing`` when neither is installed, ``no-gpu`` when there is no usable GPU.
    """
    for name, kind in (
        ("cuda.bindings.runtime", CudaPython),
        ("cuda.cudart", CudaPython),
        ("pycuda.driver", PyCuda),
    ):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            # Not installed, or made for another CUDA: the next may fit.
            continue
        cuda: Cuda = kind(module)
        return cuda
    raise EmraError(
        "backend-missing",
        "Neither cuda-python nor pycuda is installed, one of which TensorRT engines need for GPU memory",
        "Run: pip install cuda-python (of the version of your CUDA, such as 'cuda-python==12.6.*')",
    )


def _no_gpu(reason: str) -> EmraError:
    return EmraError(
        "no-gpu",
        f"There is no GPU that CUDA can use here ({reason})",
        "Run the engine on the device it was built for, or give the ONNX file, which runs on the processor",
    )


def _failed(what: str, reason: str) -> EmraError:
    code = fault_of(reason)
    remedies = {MEMORY: "Give a smaller --batch, or close what else uses the GPU", LOST: RESTART}
    return EmraError(
        code or "gpu",
        f"CUDA failed while {what} ({reason})",
        remedies.get(code or "", "See dmesg for what the driver says"),
    )
