"""Backends: the libraries that can run a model file, behind one small protocol."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.manifest import Manifest

BACKENDS = ("onnxruntime", "openvino")
"""Names that `open_backend` knows, besides ``"auto"``."""

__all__ = ["BACKENDS", "Backend", "open_backend"]


def open_backend(
    path: str | os.PathLike[str], name: str = "auto", threads: int | None = None
) -> tuple[Backend, Manifest]:
    """Load a model file.

    Args:
        path: The model file.
        name: One of `BACKENDS`, or ``"auto"`` for the one that suits the file.
        threads: Threads of one run; None leaves the choice to the backend.

    Returns:
        The backend, and what the file says about itself.

    Raises:
        EmraError: ``backend-unknown``, ``model-format``, and those of the backend.
    """
    if name != "auto" and name not in BACKENDS:
        raise EmraError("backend-unknown", f"There is no backend {name!r}", f"Use auto or {', '.join(BACKENDS)}")
    suffix = Path(path).suffix.lower()
    if suffix != ".onnx":
        raise EmraError(
            "model-format",
            f"The name of the model file ends in {suffix!r}, expected '.onnx'",
            "Give an ONNX file",
            path,
        )
    if name == "openvino":
        from emra_deploy.backends.openvino import OpenVinoBackend

        fast = OpenVinoBackend(path, threads=threads)
        return fast, fast.manifest
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path, threads=threads)
    return backend, backend.manifest
