"""GPU memory, streams, events and graphs as TensorRT wants them: pointers and handles as whole numbers.

Two libraries can give them, behind one small protocol: cuda-python (`cuda_python`) and pycuda (`cuda_pycuda`).
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

    @property
    def integrated(self) -> bool:
        """Whether processor and GPU have one memory, as on a Jetson, and the GPU can read the processor's in place."""
        ...

    def mapped(self, size: int) -> tuple[Bytes, int]:
        """New page-locked memory that the GPU reads and writes in place, and its address there; see `free_host`."""
        ...

    def event(self) -> int:
        """A new event: a place in a stream that other streams can wait for."""
        ...

    def free_event(self, event: int) -> None:
        """Give an event back."""
        ...

    def record(self, event: int, stream: int) -> None:
        """Put the event behind what is queued in the stream."""
        ...

    def wait(self, stream: int, event: int) -> None:
        """Let what is queued in the stream from now on wait for the event as it was last recorded."""
        ...

    @property
    def captures(self) -> bool:
        """Whether graphs can be captured."""
        ...

    def capture(self, stream: int, work: Callable[[], bool]) -> int | None:
        """Record what ``work`` queues in a stream, without running it.

        Args:
            stream: The stream.
            work: Queues it, and says whether that went well.

        Returns:
            A graph for `launch`, None when this work cannot be captured.
        """
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue everything that a graph has recorded."""
        ...

    def free_graph(self, graph: int) -> None:
        """Give a graph back."""
        ...


def failed(what: str, reason: str, number: int | None = None) -> EmraError:
    """The error for a call of CUDA that failed.

    Args:
        what: What it was to do.
        reason: What the library said.
        number: Of ``cudaError``, where the library gives one.
    """
    code = fault_of(reason)
    remedies = {MEMORY: "Give a smaller --batch, or close what else uses the GPU", LOST: RESTART}
    told = None if code else meaning(number_of(reason) if number is None else number)
    if told is not None:
        return EmraError(told[0], f"CUDA failed while {what}: {told[1]} ({reason})", told[2])
    return EmraError(
        code or "gpu",
        f"CUDA failed while {what} ({reason})",
        remedies.get(code or "", "See dmesg for what the driver says"),
    )
