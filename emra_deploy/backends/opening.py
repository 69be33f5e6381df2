"""Backends: the libraries that can run a model file, behind one small protocol."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from emra_deploy.backends.base import Backend
from emra_deploy.backends.choose import Choice, choose_on_processor, providers_here
from emra_deploy.backends.names import BACKENDS, PRECISIONS
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.errors import EmraError
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.manifest import Manifest

ENGINES = (".engine", ".plan", ".trt")
"""Endings of the names of TensorRT engines."""

_SUITS = {".onnx": ("onnxruntime", "openvino", *PROVIDERS), **dict.fromkeys(ENGINES, ("tensorrt",))}
"""For each ending the backends that run such files."""

_NOT_HERE = ("backend-missing", "backend-provider", "backend-broken", "backend-option", "no-gpu", "gpu-memory")
"""Codes of errors that speak against a backend on this machine, not against the file."""

_ENGINE = Choice("tensorrt", "which runs engines")

__all__ = ["BACKENDS", "ENGINES", "PRECISIONS", "Backend", "Choice", "explain", "open_auto", "open_backend", "soonest"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Options:
    """What `open_backend` was told, for whichever backend it comes to."""

    threads: int | None
    precision: str | None
    trust_engine: bool
    device: int
    cache: str | os.PathLike[str] | None
    batch: int | None


def open_backend(
    path: str | os.PathLike[str],
    name: str = "auto",
    threads: int | None = None,
    *,
    precision: str | None = None,
    trust_engine: bool = False,
    device: int = 0,
    cache: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    tiles: int | None = None,
    isolate: bool = False,
) -> tuple[Backend, Manifest]:
    """Load a model file.

    Args:
        path: The model file.
        name: One of `BACKENDS`, or ``"auto"`` for the one that suits the file and the machine; see `open_auto`.
        threads: Threads of one run; None leaves the choice to the backend. GPUs ignore it.
        precision: One of `PRECISIONS`, for OpenVINO: what it computes in where the graph leaves it the choice. None
            for what suits the file.
        trust_engine: Whether to load a TensorRT engine without a sidecar that matches it, such as one of trtexec.
            Loading an engine runs its code. Its Manifest is then that of the ONNX file of the same name beside it.
        device: Number of the GPU, for ONNX Runtime's providers.
        cache: Folder for the engines that ONNX Runtime's TensorRT providers build, which takes them seconds to minutes
            at each load without one; None keeps none.
        batch: Largest batch that will be run, for providers that build for one.
        tiles: How many tiles will be run in all, None for many; ``"auto"`` weighs slow starts against fast runs.
        isolate: Whether to run the model in a process of its own, which is replaced when it crashes, hangs or loses
            its GPU; see `emra_deploy.backends.isolated`.

    Returns:
        The backend, and what the file says about itself.

    Raises:
        EmraError: ``backend-unknown``, ``model-format``, ``backend-option`` and ``backend-precision`` for what the
            backend does not know, and those of the backend.
    """
    options = _Options(threads, precision, trust_engine, device, cache, batch)
    if isolate:
        from emra_deploy.backends.isolated import IsolatedBackend

        folder = None if cache is None else os.fspath(cache)
        apart = IsolatedBackend(path, name, {**vars(options), "cache": folder, "tiles": tiles})
        return apart, apart.manifest
    if name == "auto":
        return _open_auto(path, options, tiles)[:2]
    if name not in BACKENDS:
        raise EmraError("backend-unknown", f"There is no backend {name!r}", f"Use auto or {', '.join(BACKENDS)}")
    suits = _suits(path)
    if name not in suits:
        endings = " or ".join(ending for ending, backends in _SUITS.items() if name in backends)
        raise EmraError(
            "model-format",
            f"{name} does not run {Path(path).suffix.lower()} files: they are for {', '.join(suits)}",
            f"Leave the choice of the backend to the file, or give one that ends in {endings}",
            path,
        )
    return _open(path, name, options)


def open_auto(
    path: str | os.PathLike[str],
    threads: int | None = None,
    *,
    precision: str | None = None,
    trust_engine: bool = False,
    device: int = 0,
    cache: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    tiles: int | None = None,
) -> tuple[Backend, Manifest, Choice]:
    """As `open_backend` with ``"auto"``, and tell what was chosen and why, which the log gets too, at INFO.

    An engine is run by TensorRT. An ONNX file is run on a GPU where ONNX Runtime has a provider that finds one, and
    otherwise by the processor's backend that is done sooner.
    """
    return _open_auto(path, _Options(threads, precision, trust_engine, device, cache, batch), tiles)


def soonest(path: str | os.PathLike[str]) -> str:
    """The name of the backend that loads a file soonest, for who only wants to look at it; nothing is loaded.

    Raises:
        EmraError: ``model-format``.
    """
    suits = _suits(path)
    return suits[0] if len(suits) == 1 else choose_on_processor(Path(path), tiles=1).name


def explain(path: str | os.PathLike[str]) -> str:
    """What ``"auto"`` comes to for a file and many tiles, and why, one line. Nothing is loaded.

    Raises:
        EmraError: ``model-format``.
    """
    if _suits(path) == ("tensorrt",):
        return _ENGINE.describe()
    wanted, others = providers_here()
    choice = choose_on_processor(Path(path)).after(*others)
    if wanted:
        names = " or ".join(provider.name for provider in wanted)
        return f"{names}, where it finds a GPU; otherwise {choice.describe()}"
    return choice.describe()


def _open_auto(path: str | os.PathLike[str], options: _Options, tiles: int | None) -> tuple[Backend, Manifest, Choice]:
    choice, opened = _on_gpu(path, options)
    if opened is None:
        choice = choose_on_processor(Path(path), precision=options.precision, tiles=tiles).after(*choice.passed_over)
        opened = _open(path, choice.name, replace(options, cache=None))
    _log.info("backend %s", choice.describe())
    return *opened, choice


def _on_gpu(path: str | os.PathLike[str], options: _Options) -> tuple[Choice, tuple[Backend, Manifest] | None]:
    """Open a file on a GPU, where that is possible, and the reasons; the choice has no name where it is not."""
    if _suits(path) == ("tensorrt",):
        return _ENGINE, _open(path, "tensorrt", options)
    wanted, others = providers_here(options.precision, keeps_engines=options.cache is not None)
    for provider in wanted:
        try:
            opened = _open(path, provider.name, options if provider.builder else replace(options, cache=None))
        except EmraError as error:
            if error.code not in _NOT_HERE:
                raise
            others.append((provider.name, error.cause))
        else:
            slower = [(name, "the processor is slower") for name in ("onnxruntime", "openvino")]
            return Choice(provider.name, "which finds a GPU", (*others, *slower)), opened
    return Choice("", "", tuple(others)), None


def _suits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    suffix = Path(path).suffix.lower()
    suits = _SUITS.get(suffix, ())
    if not suits:
        found = repr(suffix) if suffix else "no suffix"
        raise EmraError(
            "model-format",
            f"The name of the model file ends in {found}, expected '.onnx' or '.engine'",
            "Give an ONNX file, or a TensorRT engine that export.build_engine made",
            path,
        )
    return suits


def _open(path: str | os.PathLike[str], name: str, options: _Options) -> tuple[Backend, Manifest]:
    """Open a file with a backend that runs such files."""
    with step(f"loading {os.fspath(path)} with {name}"):
        return _load(path, name, options)


def _load(path: str | os.PathLike[str], name: str, options: _Options) -> tuple[Backend, Manifest]:
    if options.precision is not None and name != "openvino":
        raise EmraError(
            "backend-precision",
            f"{name} computes in what the file says, and {options.precision} was asked for",
            "Leave the precision out, or give --backend openvino, which can choose, or export in that precision",
            path,
        )
    if name in PROVIDERS:
        from emra_deploy.backends.ort_gpu import OnnxRuntimeGpuBackend

        on_gpu = OnnxRuntimeGpuBackend(path, name, device=options.device, cache=options.cache, batch=options.batch)
        return on_gpu, on_gpu.manifest
    if options.cache is not None:
        raise EmraError("backend-option", f"{name} builds no engines to keep", "Leave the folder out")
    if name == "tensorrt":
        return _open_engine(path, options.trust_engine)
    if name == "openvino":
        from emra_deploy.backends.openvino import OpenVinoBackend

        fast = OpenVinoBackend(path, threads=options.threads, precision=options.precision)
        return fast, fast.manifest
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path, threads=options.threads)
    return backend, backend.manifest


def _open_engine(path: str | os.PathLike[str], trusted: bool) -> tuple[Backend, Manifest]:
    from emra_deploy.backends.tensorrt.backend import TensorRTBackend
    from emra_deploy.backends.tensorrt.manifests import manifest_of_onnx, onnx_beside
    from emra_deploy.backends.tensorrt.sidecar import read_sidecar

    manifest = None
    if trusted and read_sidecar(path) is None:
        source = onnx_beside(path)
        manifest = None if source is None else manifest_of_onnx(source)
    engine = TensorRTBackend(path, manifest, trusted=trusted)
    return engine, engine.manifest
