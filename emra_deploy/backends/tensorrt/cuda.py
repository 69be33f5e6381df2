"""Access to CUDA through cuda-python or pycuda."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from emra_deploy.backends.tensorrt.cuda_base import Bytes, Cuda, DeviceFacts
from emra_deploy.backends.tensorrt.cuda_pycuda import PyCuda
from emra_deploy.backends.tensorrt.cuda_python import CudaPython
from emra_deploy.backends.tensorrt.cuda_unusable import driver_is_missing, no_driver
from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.extras import install_command

__all__ = ["UNUSABLE", "Bytes", "Cuda", "CudaPython", "DeviceFacts", "PyCuda", "cuda_state", "open_cuda"]

UNUSABLE = (
    *("backend-missing", "backend-broken"),
    *("cuda-version", "cuda-mismatch", "gpu-busy", "gpu-driver", "gpu-memory", "gpu-start", "no-gpu"),
)
"""Codes of the errors of `open_cuda`."""

_LIBRARIES: tuple[tuple[str, tuple[str, ...], Callable[[Any], Cuda]], ...] = (
    # The second name is that of cuda-python before 12.6.
    ("cuda-python", ("cuda.bindings.runtime", "cuda.cudart"), CudaPython),
    ("pycuda", ("pycuda.driver",), PyCuda),
)
_OF_THE_LIBRARY = ("backend-broken", "cuda-version")
"""Codes of errors that may not occur with another library."""


def open_cuda() -> Cuda:
    """CUDA through the first installed library that fits the driver; cuda-python is tried first.

    Raises:
        EmraError: ``backend-missing`` when neither is installed, ``backend-broken`` for one that does not load, and
            the reasons why CUDA cannot be used; see `emra_deploy.backends.tensorrt.cuda_unusable`.
    """
    failures: list[EmraError] = []
    for title, names, kind in _LIBRARIES:
        try:
            module = _import(title, names)
            if module is not None:
                return kind(module)
        except EmraError as error:
            # The library may be for another CUDA release; the next may fit.
            failures.append(error)
    if failures:
        raise next((error for error in failures if error.code not in _OF_THE_LIBRARY), failures[0])
    raise EmraError(
        "backend-missing",
        "Neither cuda-python nor pycuda is installed, one of which TensorRT engines need for GPU memory",
        _get(),
    )


def _get() -> str:
    """Commands that install a library, for errors."""
    return f"For CUDA 12 (JetPack 6), run: {install_command('cuda12')}; for CUDA 13: {install_command('cuda13')}"


def _import(title: str, names: tuple[str, ...]) -> Any:
    """The module, or None when it is not installed.

    Raises:
        EmraError: ``backend-broken``, ``gpu-driver``.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise _broken(title, error) from error
        except Exception as error:  # Compiled modules may raise ImportError, OSError, RuntimeError and others.
            raise _broken(title, error) from error
    return None


def _broken(title: str, error: Exception) -> EmraError:
    reason = one_line(error)
    if "libcuda" in reason and driver_is_missing():
        return no_driver(reason)
    return EmraError("backend-broken", f"{title} is installed and does not load ({reason})", _get())


def cuda_state() -> dict[str, Any]:
    """Whether CUDA can be used, as JSON values: ``gpu`` and ``compute_capability``, or ``error``."""
    try:
        facts = open_cuda().facts()
    except EmraError as error:
        return {"gpu": None, "compute_capability": None, "error": error.to_dict()}
    return {"gpu": facts.name, "compute_capability": facts.sm, "error": None}
