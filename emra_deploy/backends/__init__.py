"""Backends: the libraries that can run a model file, behind one small protocol."""

from __future__ import annotations

import os
from pathlib import Path

from emra_deploy.backends.base import Backend
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.errors import EmraError
from emra_deploy.manifest import Manifest

BACKENDS = ("onnxruntime", *PROVIDERS, "openvino", "tensorrt")
"""Names that `open_backend` knows, besides ``"auto"``."""

ENGINES = (".engine", ".plan", ".trt")
"""Endings of the names of TensorRT engines."""

_SUITS = {".onnx": ("onnxruntime", "openvino", *PROVIDERS), **dict.fromkeys(ENGINES, ("tensorrt",))}
"""For each ending the backends that run such files, the one that ``"auto"`` takes first."""

__all__ = ["BACKENDS", "ENGINES", "Backend", "open_backend"]


def open_backend(
    path: str | os.PathLike[str],
    name: str = "auto",
    threads: int | None = None,
    *,
    trust_engine: bool = False,
    device: int = 0,
    cache: str | os.PathLike[str] | None = None,
    batch: int | None = None,
) -> tuple[Backend, Manifest]:
    """Load a model file.

    Args:
        path: The model file.
        name: One of `BACKENDS`, or ``"auto"`` for the one that suits the file.
        threads: Threads of one run; None leaves the choice to the backend. Engines run on the GPU and ignore it.
        trust_engine: Whether to load a TensorRT engine without a sidecar that matches it, such as one of trtexec.
            Loading an engine runs its code. Its Manifest is then that of the ONNX file of the same name beside it.
        device: Number of the GPU, for ONNX Runtime's providers.
        cache: Folder for the engines that ONNX Runtime's TensorRT providers build, which takes them seconds to minutes
            at each load without one; None keeps none.
        batch: Largest batch that will be run, for providers that build for one.

    Returns:
        The backend, and what the file says about itself.

    Raises:
        EmraError: ``backend-unknown``, ``model-format``, ``backend-option`` for an option that the backend does not
            know, and those of the backend.
    """
    if name != "auto" and name not in BACKENDS:
        raise EmraError("backend-unknown", f"There is no backend {name!r}", f"Use auto or {', '.join(BACKENDS)}")
    suffix = Path(path).suffix.lower()
    suits = _SUITS.get(suffix, ())
    if not suits:
        raise EmraError(
            "model-format",
            f"The name of the model file ends in {suffix!r}, expected '.onnx' or '.engine'",
            "Give an ONNX file, or a TensorRT engine that export/build_engine.py made",
            path,
        )
    if name == "auto":
        name = suits[0]
    if name not in suits:
        endings = " or ".join(ending for ending, backends in _SUITS.items() if name in backends)
        raise EmraError(
            "model-format",
            f"{name} does not run {suffix} files: they are for {', '.join(suits)}",
            f"Leave the choice of the backend to the file, or give one that ends in {endings}",
            path,
        )
    if name == "tensorrt":
        return _open_engine(path, trust_engine)
    if name in PROVIDERS:
        from emra_deploy.backends.ort_gpu import OnnxRuntimeGpuBackend

        fast = OnnxRuntimeGpuBackend(path, name, device=device, cache=cache, batch=batch)
        return fast, fast.manifest
    if cache is not None:
        raise EmraError("backend-option", f"{name} builds no engines to keep", "Leave the folder out")
    if name == "openvino":
        from emra_deploy.backends.openvino import OpenVinoBackend

        on_processor = OpenVinoBackend(path, threads=threads)
        return on_processor, on_processor.manifest
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path, threads=threads)
    return backend, backend.manifest


def _open_engine(path: str | os.PathLike[str], trusted: bool) -> tuple[Backend, Manifest]:
    from emra_deploy.backends.trt import TensorRTBackend
    from emra_deploy.engine.manifests import manifest_of_onnx, onnx_beside
    from emra_deploy.engine.sidecar import read_sidecar

    manifest = None
    if trusted and read_sidecar(path) is None:
        source = onnx_beside(path)
        manifest = None if source is None else manifest_of_onnx(source)
    engine = TensorRTBackend(path, manifest, trusted=trusted)
    return engine, engine.manifest
