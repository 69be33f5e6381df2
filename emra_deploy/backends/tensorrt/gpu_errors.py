"""Classification of GPU errors by reaction: use less memory, start a new process, or neither.

The texts are those of ``cudaGetErrorString`` and the names of CUDA errors; ONNX Runtime, TensorRT, cuda-python and
pycuda quote them in their own messages. An error counts as permanent if the documentation of ``cudaError`` says that
the process must be terminated and relaunched to continue using CUDA.
"""

from __future__ import annotations

import re

MEMORY, LOST = "gpu-memory", "gpu-lost"
"""Error codes: not enough GPU memory, and a GPU that this process can no longer use."""

_LOST = re.compile(
    r"illegal memory access|illegal instruction|misaligned address|launch failure|launch timed out|device-side assert"
    r"|hardware stack error|invalid program counter|operation not supported on global/shared address space"
    r"|uncorrectable (?:ECC|NVLink) error|Invalid access of peer GPU memory|tensor memory not completely freed"
    r"|context is destroyed|MPS client has been terminated|fallen off the bus"
    r"|cudaError(?:ECCUncorrectable|NvlinkUncorrectable|Contained|IllegalAddress|LaunchTimeout|ContextIsDestroyed|Assert"
    r"|HardwareStackError|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|LaunchFailure"
    r"|TensorMemoryLeak|MpsClientTerminated)"
    r"|CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED|LAUNCH_TIMEOUT|ASSERT|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS"
    r"|HARDWARE_STACK_ERROR|INVALID_PC|INVALID_ADDRESS_SPACE|ECC_UNCORRECTABLE|CONTEXT_IS_DESTROYED)",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|OUT_OF_MEMORY|ALLOC_FAILED|cudaErrorMemoryAllocation|failed to allocate memory"
    r"|bad_alloc|no room",
    re.IGNORECASE,
)
_SIZE = re.compile(r"(?:buffer of size|requested size was|reserving|allocating) (\d+)", re.IGNORECASE)

RESTART = "Start the process anew: CUDA cannot be used in this one any more. See dmesg for what the driver says"
"""Remedy for a lost GPU."""


def fault_of(text: str) -> str | None:
    """Classify an error as `LOST`, `MEMORY`, or None for any other kind.

    Args:
        text: The library's message.
    """
    if _LOST.search(text):
        return LOST
    return MEMORY if _MEMORY.search(text) else None


def asked_for(text: str) -> int | None:
    """Bytes of the failed allocation, if the message contains them."""
    found = _SIZE.search(text)
    return None if found is None else int(found.group(1))
