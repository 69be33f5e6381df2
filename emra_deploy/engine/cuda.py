"""CUDA through whichever library is here."""

from __future__ import annotations

import importlib

from emra_deploy.engine.cuda_base import Bytes, Cuda, DeviceFacts
from emra_deploy.engine.cuda_pycuda import PyCuda
from emra_deploy.engine.cuda_python import CudaPython
from emra_deploy.errors import EmraError

__all__ = ["Bytes", "Cuda", "CudaPython", "DeviceFacts", "PyCuda", "open_cuda"]


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
