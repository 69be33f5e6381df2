"""GPU memory, streams, events and graphs in the form that TensorRT expects: pointers and handles as integers.

Two libraries implement this small protocol: cuda-python (`cuda_python`) and pycuda (`cuda_pycuda`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.tensorrt.cuda_unusable import meaning, number_of
from emra_deploy.backends.tensorrt.gpu_errors import LOST, MEMORY, RESTART, fault_of
from emra_deploy.errors import EmraError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DeviceFacts:
    """The GPU in use.

    Attributes:
        name: Name given by the driver.
        sm: Compute capability, such as ``"8.7"``.
        free: Free memory in bytes.
        total: Total memory in bytes.
    """

    name: str
    sm: str
    free: int
    total: int


class Cuda(Protocol):
    """The CUDA operations needed to run an engine; sizes are in bytes. Thread-safe."""

    def facts(self) -> DeviceFacts:
        """The first GPU."""
        ...

    def stream(self) -> int:
        """A new stream."""
        ...

    def free_stream(self, stream: int) -> None:
        """Destroy a stream."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait until all work in the stream is done."""
        ...

    def device(self, size: int) -> int:
        """Allocate GPU memory and return its address."""
        ...

    def free_device(self, address: int) -> None:
        """Free GPU memory."""
        ...

    def host(self, size: int) -> Bytes:
        """Allocate page-locked memory, which asynchronous copies to and from the GPU require."""
        ...

    def free_host(self, memory: Bytes) -> None:
        """Free page-locked memory."""
        ...

    def upload(self, address: int, memory: Bytes, stream: int) -> None:
        """Queue a copy of ``memory`` to the GPU."""
        ...

    def download(self, memory: Bytes, address: int, stream: int) -> None:
        """Queue a copy from the GPU into ``memory``."""
        ...

    @property
    def integrated(self) -> bool:
        """Whether CPU and GPU share one memory, as on a Jetson, and the GPU can read host memory in place."""
        ...

    def mapped(self, size: int) -> tuple[Bytes, int]:
        """Allocate page-locked memory that the GPU accesses in place; return it and its GPU address."""
        ...

    def event(self) -> int:
        """Create an event: a point in a stream that other streams can wait for."""
        ...

    def free_event(self, event: int) -> None:
        """Destroy an event."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Record the event after all work queued in the stream."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Make later work in the stream wait for the event as last recorded."""
        ...

    @property
    def captures(self) -> bool:
        """Whether graphs can be captured."""
        ...

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Capture the operations that ``work`` queues in a stream, without running them.

        Args:
            stream: The stream.
            work: Queues the operations; returns whether that succeeded.

        Returns:
            A graph for `launch`, None when this work cannot be captured.
        """
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue all operations of a graph."""
        ...

    def free_graph(self, graph: int) -> None:
        """Destroy a graph."""
        ...


def failed(what: str, reason: str, number: int | None = None) -> EmraError:
    """The error for a failed CUDA call.

    Args:
        what: Purpose of the call.
        reason: Message of the library.
        number: Number of the ``cudaError``, if the library reports it.
    """
    code = fault_of(reason)
    remedies = {MEMORY: "Give a smaller --batch, or close what else uses the GPU", LOST: RESTART}
    known = None if code else meaning(number_of(reason) if number is None else number)
    if known is not None:
        return EmraError(known[0], f"CUDA failed while {what}: {known[1]} ({reason})", known[2])
    return EmraError(
        code or "gpu",
        f"CUDA failed while {what} ({reason})",
        remedies.get(code or "", "See dmesg for what the driver says"),
    )
