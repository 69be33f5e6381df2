"""Backends: the libraries that can run a model file, behind one small protocol."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from emra_deploy.backends.base import Backend
from emra_deploy.backends.choose import Choice, choose_on_processor, providers_here
from emra_deploy.backends.metadata import peek_manifest
from emra_deploy.backends.names import ENGINES
from emra_deploy.backends.options import DEFAULTS, LoadOptions
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.errors import EmraError
from emra_deploy.host.slow_steps import step
from emra_deploy.model_file.manifest import Manifest

_SUITS = {".onnx": ("onnxruntime", "openvino", *PROVIDERS), **dict.fromkeys(ENGINES, ("tensorrt",))}
"""The backends for each file suffix."""

_NOT_HERE = ("backend-missing", "backend-provider", "backend-broken", "backend-option", "no-gpu", "gpu-memory")
"""Codes of errors that disqualify a backend on this machine, not the file."""

_ENGINE = Choice("tensorrt", "which runs engines")

_log = logging.getLogger(__name__)


def stated_manifest(path: Path) -> Manifest | None:
    """The Manifest in a model file or in an engine's sidecar, without loading the model.

    None where it cannot be read: loading reports the reason.
    """
    if path.suffix.lower() not in ENGINES:
        return peek_manifest(path)
    from emra_deploy.backends.tensorrt.sidecar import read_sidecar

    try:
        found = read_sidecar(path)
    except EmraError:
        return None
    return None if found is None else found[1]


def open_backend(path: str | os.PathLike[str], options: LoadOptions = DEFAULTS, **changes: Any) -> Backend:
    """Load a model file.

    Args:
        path: The model file.
        options: How to open it.
        **changes: Attributes of `LoadOptions` that differ from ``options``.

    Raises:
        EmraError: ``model-format``, ``backend-option`` and ``backend-precision`` for options that the backend does not
            have, and those of `LoadOptions` and the backend.
    """
    options = replace(options, **changes)
    if options.isolate:
        from emra_deploy.backends.isolated import IsolatedBackend

        return IsolatedBackend(path, options)
    if options.backend == "auto":
        return open_auto(path, options)[0]
    suits = _suits(path)
    if options.backend not in suits:
        endings = " or ".join(ending for ending, backends in _SUITS.items() if options.backend in backends)
        raise EmraError(
            "model-format",
            f"{options.backend} does not run {Path(path).suffix.lower()} files: they are for {', '.join(suits)}",
            f"Leave the choice of the backend to the file, or give one that ends in {endings}",
            path,
        )
    return _open(path, options)


def open_auto(path: str | os.PathLike[str], options: LoadOptions = DEFAULTS, **changes: Any) -> tuple[Backend, Choice]:
    """Load a model file with the backend that suits it and this machine, and report the choice, also to the log.

    TensorRT runs engines. An ONNX file runs on a GPU if an ONNX Runtime provider finds one, and otherwise with the CPU
    backend that finishes first.

    Args:
        path: The model file.
        options: How to open it; its backend and isolation are ignored.
        **changes: Attributes of `LoadOptions` that differ from ``options``.
    """
    options = replace(options, **changes)
    choice, opened = _on_gpu(path, options)
    if opened is None:
        choice = choose_on_processor(Path(path), precision=options.precision, tiles=options.tiles).after(
            *choice.passed_over
        )
        opened = _open(path, replace(options, backend=choice.name, engine_cache=None))
    _log.info("backend %s", choice.describe())
    return opened, choice


def soonest(path: str | os.PathLike[str]) -> str:
    """The name of the backend that loads a file fastest, for inspecting it. Nothing is loaded.

    Raises:
        EmraError: ``model-format``.
    """
    suits = _suits(path)
    return suits[0] if len(suits) == 1 else choose_on_processor(Path(path), tiles=1).name


def explain(path: str | os.PathLike[str]) -> str:
    """One line with the backend that ``"auto"`` chooses for a file and many tiles, and the reason. Nothing is loaded.

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


def _on_gpu(path: str | os.PathLike[str], options: LoadOptions) -> tuple[Choice, Backend | None]:
    """Open a file on a GPU if possible, and give the reasons; without a GPU the choice has no name."""
    if _suits(path) == ("tensorrt",):
        return _ENGINE, _open(path, replace(options, backend="tensorrt"))
    wanted, others = providers_here(options.precision, keeps_engines=options.engine_cache is not None)
    for provider in wanted:
        try:
            cache = options.engine_cache if provider.builder else None
            opened = _open(path, replace(options, backend=provider.name, engine_cache=cache))
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


def _open(path: str | os.PathLike[str], options: LoadOptions) -> Backend:
    """Open a file with a backend that runs such files."""
    with step(f"loading {os.fspath(path)} with {options.backend}"):
        return _load(path, options)


def _load(path: str | os.PathLike[str], options: LoadOptions) -> Backend:
    name = options.backend
    if options.precision is not None and name != "openvino":
        raise EmraError(
            "backend-precision",
            f"{name} computes in what the file says, and {options.precision} was asked for",
            "Leave the precision out, or give --backend openvino, which can choose, or export in that precision",
            path,
        )
    if options.engine_cache is not None and not (name in PROVIDERS and PROVIDERS[name].builder):
        raise EmraError("backend-option", f"{name} builds no engines to keep", "Leave the folder out")
    if name in PROVIDERS:
        from emra_deploy.backends.ort_gpu import OnnxRuntimeGpuBackend

        return OnnxRuntimeGpuBackend(path, options)
    if name == "tensorrt":
        from emra_deploy.backends.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(path, options)
    if name == "openvino":
        from emra_deploy.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, options)
    from emra_deploy.backends.ort import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, options)
