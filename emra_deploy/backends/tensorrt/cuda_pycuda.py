"""CUDA through pycuda's driver interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from emra_deploy.backends.tensorrt.cuda_base import Bytes, DeviceFacts, failed
from emra_deploy.backends.tensorrt.cuda_unusable import unusable


class PyCuda:
    """`Cuda` over pycuda's driver interface, in the GPU's primary context, which TensorRT uses too.

    Args:
        driver: The module ``pycuda.driver``.

    Raises:
        EmraError: The reason why CUDA cannot be used; see `emra_deploy.backends.tensorrt.cuda_unusable`.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        try:
            driver.init()
            self._device = driver.Device(0)
            self._context = self._device.retain_primary_context()
        except (driver.Error, MemoryError) as error:
            raise unusable(None, str(error)) from error
        # pycuda frees memory without references, so keep them here by address.
        self._held: dict[int, Any] = {}
        self._lock = threading.Lock()

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Work in the context, which pycuda binds to threads."""
        self._context.push()
        try:
            yield
        except (self._driver.Error, MemoryError) as error:
            raise failed(what, str(error)) from error
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
        """Implement `Cuda.facts`."""
        with self._doing("describing the GPU"):
            free, total = self._driver.mem_get_info()
        major, minor = self._device.compute_capability()
        return DeviceFacts(str(self._device.name()), f"{major}.{minor}", int(free), int(total))

    def stream(self) -> int:
        """Implement `Cuda.stream`."""
        with self._doing("making a stream"):
            stream = self._driver.Stream()
        return self._hold(int(stream.handle), stream)

    def free_stream(self, stream: int) -> None:
        """Implement `Cuda.free_stream`."""
        with self._doing("ending a stream"):
            self._drop(stream)

    def synchronize(self, stream: int) -> None:
        """Implement `Cuda.synchronize`."""
        with self._doing("running the engine"):
            self._held[stream].synchronize()

    def device(self, size: int) -> int:
        """Implement `Cuda.device`."""
        with self._doing(f"reserving {size} bytes of GPU memory"):
            memory = self._driver.mem_alloc(size)
        return self._hold(int(memory), memory)

    def free_device(self, address: int) -> None:
        """Implement `Cuda.free_device`."""
        with self._doing("giving GPU memory back"):
            self._drop(address).free()

    def host(self, size: int) -> Bytes:
        """Implement `Cuda.host`."""
        with self._doing(f"reserving {size} bytes of page-locked memory"):
            memory: Bytes = self._driver.pagelocked_empty(size, np.uint8)
        return memory

    def free_host(self, memory: Bytes) -> None:
        """Implement `Cuda.free_host`."""
        with self._doing("giving page-locked memory back"):
            memory.base.free()  # type: ignore[union-attr]

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """Implement `Cuda.upload`."""
        with self._doing("copying to the GPU"):
            self._driver.memcpy_htod_async(address, memory, self._held[stream])

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """Implement `Cuda.download`."""
        with self._doing("copying from the GPU"):
            self._driver.memcpy_dtoh_async(memory, address, self._held[stream])

    @property
    def integrated(self) -> bool:
        """Implement `Cuda.integrated`."""
        kinds = self._driver.device_attribute
        return all(bool(self._device.get_attribute(kind)) for kind in (kinds.INTEGRATED, kinds.CAN_MAP_HOST_MEMORY))

    def mapped(self, size: int) -> tuple[Bytes, int]:
        """Implement `Cuda.mapped`."""
        with self._doing(f"reserving {size} bytes of shared memory"):
            flags = self._driver.host_alloc_flags.DEVICEMAP
            memory: Bytes = self._driver.pagelocked_empty(size, np.uint8, mem_flags=flags)
            return memory, int(memory.base.get_device_pointer())  # type: ignore[union-attr]

    def event(self) -> int:
        """Implement `Cuda.event`."""
        with self._doing("making an event"):
            event = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
        # pycuda does not expose the event's handle.
        return self._hold(id(event), event)

    def free_event(self, event: int) -> None:
        """Implement `Cuda.free_event`."""
        with self._doing("ending an event"):
            self._drop(event)

    def record(self, event: int, stream: int) -> None:
        """Implement `Cuda.record`."""
        with self._doing("recording an event"):
            self._held[event].record(self._held[stream])

    def wait(self, stream: int, event: int) -> None:
        """Implement `Cuda.wait`."""
        with self._doing("waiting for an event"):
            self._held[stream].wait_for_event(self._held[event])

    @property
    def captures(self) -> bool:
        """Implement `Cuda.captures`: pycuda has no graphs."""
        return False

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Implement `Cuda.capture`."""
        return None

    def launch(self, graph: int, stream: int) -> None:
        """Never called, as there are no graphs."""
        raise NotImplementedError

    def free_graph(self, graph: int) -> None:
        """Never called, as there are no graphs."""
        raise NotImplementedError
