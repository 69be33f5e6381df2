"""Reasons why CUDA cannot be used on a machine, each with a remedy.

Numbers and texts are those of ``cudaError`` and ``cudaGetErrorString``; the driver's ``cuGetErrorString`` has the same.
cuda-python returns numbers; pycuda and ONNX Runtime quote the texts in their own messages.
"""

from __future__ import annotations

import ctypes
import sys

from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.extras import pip_install

ELSEWHERE = "or give the ONNX file, which runs on the processor"
"""The end of every remedy for an engine."""

DRIVER = "libcuda.so.1"
INSUFFICIENT, LACKING = 35, 36
"""Error numbers of a driver that is too old for the library, and for one of its functions."""

_INSTALL = (
    "Install NVIDIA's driver; JetPack brings it on a Jetson, and a container sees it when started with --gpus all or"
    " --runtime nvidia"
)
_REBOOT = (
    "Reboot, so that the kernel's module and libcuda.so.1 come from one driver; in a container, remove the cuda-compat"
    " package or take an image of the host's CUDA"
)
_AGAIN = "Check that nvidia-smi shows the GPU and see dmesg for what the driver says, then reboot"

# Number -> quoted text, error code, meaning, remedy.
_REASONS: dict[int, tuple[str, str, str, str]] = {
    2: (
        "out of memory",
        "gpu-memory",
        "the GPU has no memory left to begin with",
        "Close what else uses the GPU (nvidia-smi lists it)",
    ),
    3: ("initialization error", "gpu-start", "the driver does not start", _AGAIN),
    34: (
        "CUDA driver is a stub library",
        "gpu-driver",
        "libcuda.so.1 is the stub that programs are linked with, not the driver",
        "Take the folder stubs out of LD_LIBRARY_PATH. " + _INSTALL,
    ),
    INSUFFICIENT: (
        "CUDA driver version is insufficient for CUDA runtime version",
        "cuda-version",
        "a library was made for a later CUDA than the driver knows",
        "Install the libraries for the CUDA version that nvidia-smi shows, or a later driver",
    ),
    LACKING: (
        "API call is not supported in the installed CUDA driver",
        "cuda-version",
        "the driver is too old for a function that is needed",
        "Install the libraries for the CUDA version that nvidia-smi shows, or a later driver",
    ),
    46: (
        "CUDA-capable device(s) is/are busy or unavailable",
        "gpu-busy",
        "another process uses the GPU exclusively, or its compute mode prohibits use",
        "Wait for the other process, or ask for another compute mode: nvidia-smi --compute-mode=0",
    ),
    100: (
        "no CUDA-capable device is detected",
        "no-gpu",
        "the driver is installed but finds no GPU",
        "Check that nvidia-smi shows a GPU, that you may use /dev/nvidia*, and that CUDA_VISIBLE_DEVICES is not empty",
    ),
    101: (
        "invalid device ordinal",
        "no-gpu",
        "this process may not use the first GPU",
        "Set CUDA_VISIBLE_DEVICES to the number of a GPU that nvidia-smi shows",
    ),
    802: (
        "system not yet initialized",
        "gpu-start",
        "the machine's GPUs are not ready",
        "Wait, and start nvidia-fabricmanager on machines with NVSwitch",
    ),
    803: (
        "system has unsupported display driver / cuda driver combination",
        "cuda-mismatch",
        "libcuda.so.1 and the kernel's module are of different drivers",
        _REBOOT,
    ),
    804: (
        "forward compatibility was attempted on non supported HW",
        "cuda-mismatch",
        "the cuda-compat package is for data-centre GPUs and Jetsons only, and this GPU is none",
        _REBOOT,
    ),
    999: ("unknown error", "gpu-start", "the driver fails and does not say why", _AGAIN),
}
# "unknown error" may be part of any message, so only its number counts.
_TEXTS = {text.lower(): number for number, (text, *_) in _REASONS.items() if number not in (2, 999)}


def number_of(text: str) -> int | None:
    """The number of a quoted error, if its cause is the machine or the installation."""
    lower = text.lower()
    return next((number for quoted, number in _TEXTS.items() if quoted in lower), None)


def meaning(number: int | None) -> tuple[str, str, str] | None:
    """Code, cause and remedy of an error caused by the machine or the installation; otherwise None."""
    return None if number is None or number not in _REASONS else _REASONS[number][1:]


def unusable(number: int | None, reason: str, *, runtime: int | None = None, driver: int | None = None) -> EmraError:
    """The error for CUDA that cannot be used.

    Args:
        number: Number of the ``cudaError``; None if a library reports only text.
        reason: Message of the library.
        runtime: CUDA version of the library in CUDA's notation, such as 13000; None if it is not reported.
        driver: Latest CUDA version that the driver supports, likewise; 0 without a driver.
    """
    if number is None:
        number = number_of(reason)
    reason = one_line(reason)
    if number == INSUFFICIENT and driver == 0:
        return no_driver(f"CUDA's error {number}")
    if number in (INSUFFICIENT, LACKING) and runtime and driver and driver < runtime:
        return _other_version(reason, runtime, driver)
    known = meaning(number)
    if known is None:
        return EmraError("no-gpu", f"There is no GPU that CUDA can use here ({reason})", f"{_AGAIN}, {ELSEWHERE}")
    code, cause, remedy = known
    return EmraError(code, f"CUDA cannot be used here: {cause} ({reason})", f"{remedy}, {ELSEWHERE}")


def no_driver(reason: str) -> EmraError:
    """The error for a machine without a driver."""
    return EmraError(
        "gpu-driver", f"NVIDIA's driver is not here: there is no {DRIVER} ({reason})", f"{_INSTALL}, {ELSEWHERE}"
    )


def driver_is_missing() -> bool:
    """Whether the driver's library cannot be loaded."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else DRIVER)
    except OSError:
        return True
    return False


def version_text(version: int) -> str:
    """``"12.6"`` for CUDA's 12060."""
    return f"{version // 1000}.{version % 1000 // 10}"


def pin_for(driver: int, python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The pip requirement of the cuda-python that suits a driver."""
    if driver // 1000 == 12 and python >= (3, 13):
        # 12.8 is the first with wheels for 3.13; drivers support all runtimes of their own major version.
        return "cuda-python>=12.8,<13"
    return f"cuda-python=={version_text(driver)}.*"


def _other_version(reason: str, runtime: int, driver: int) -> EmraError:
    cause = (
        f"The CUDA library here has a CUDA {version_text(runtime)} runtime, and the driver knows CUDA"
        f" {version_text(driver)} at most ({reason})"
    )
    if driver < 12000:
        return EmraError(
            "cuda-version", cause, f"Install a driver that knows CUDA 12.6 or later, which TensorRT needs, {ELSEWHERE}"
        )
    return EmraError(
        "cuda-version", cause, f"Run: {pip_install(pin_for(driver))}; or install a later driver, {ELSEWHERE}"
    )
