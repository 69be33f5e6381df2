"""The ONNX Runtime backend on NVIDIA GPUs, through its CUDA, TensorRT and TensorRT-RTX providers.

ONNX Runtime itself falls back to the CPU when a provider does not load, and reports that only in its log. Here the
requested provider is in use, or an error is raised.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.backends.gpu_guard import GpuGuard
from emra_deploy.backends.options import LoadOptions
from emra_deploy.backends.ort import OnnxRuntimeBackend, check_file, load_runtime, make_session, open_session
from emra_deploy.backends.providers import PROVIDERS, Provider, provider_options
from emra_deploy.backends.tensorrt.bindings import chunks
from emra_deploy.backends.tensorrt.cuda_unusable import meaning, number_of
from emra_deploy.backends.tensorrt.device import free_memory
from emra_deploy.backends.tensorrt.forecast import Forecast
from emra_deploy.backends.tensorrt.gpu_errors import LOST, RESTART, fault_of
from emra_deploy.backends.tensorrt.graph_memory import measure_graph
from emra_deploy.errors import EmraError, one_line
from emra_deploy.host.forks import Owner

if TYPE_CHECKING:
    import onnxruntime

_log = logging.getLogger(__name__)

DEFAULT_LARGEST = 1
"""Largest batch that an engine is built for when neither model nor options set one."""


class OnnxRuntimeGpuBackend(OnnxRuntimeBackend):
    """Runs an ONNX file with ONNX Runtime on a GPU.

    Args:
        path: The ``.onnx`` file.
        options: How to open it, its backend one of `PROVIDERS`. For a model with a dynamic batch the TensorRT providers
            build an engine for the batch given here, and run larger batches in parts.

    Raises:
        EmraError: ``backend-missing`` when this ONNX Runtime has no such provider; ``backend-provider`` when the
            provider does not load or would leave the whole model to the CPU; ``backend-option``; and those of
            `OnnxRuntimeBackend`.
    """

    def __init__(self, path: str | os.PathLike[str], options: LoadOptions) -> None:
        self._provider = chosen = PROVIDERS[options.backend]
        self.name = chosen.name
        self._path, self._options, self._owner = path, replace(options, threads=None), Owner()
        check_file(Path(path))
        library = load_runtime()
        devices = _find(library, chosen)
        # Load on the CPU first: any later failure is the provider's, not the file's.
        session_options = self._session_options()
        session_options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = open_session(Path(path), session_options)
        self.manifest = self._checked()
        self._device, self._nodes = options.device, ""
        self._largest = (self.manifest.input_shape[0] or options.batch or DEFAULT_LARGEST) if chosen.builder else None
        if options.engine_cache is not None:
            _make_folder(options.engine_cache)
        settings = provider_options(chosen, self.manifest, options, self._largest or 1)
        self._session = self._open(library, devices, settings)
        self._check_in_use(library)
        self._guard = GpuGuard(chosen.title, self._needed, lambda: free_memory(None))

    def _open(self, library: Any, devices: list[Any], settings: dict[str, str]) -> onnxruntime.InferenceSession:
        chosen = self._provider
        options = self._session_options()
        # Reports which provider runs each node, from 1.24 on.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            if devices:
                settings.pop("device_id")
                options.add_provider_for_devices([devices[self._device]], settings)
                return make_session(self._path, options)
            _load_libraries(library, chosen)
            providers: list[Any] = [(chosen.ep, settings)]
            if chosen.builder and PROVIDERS["onnxruntime-cuda"].ep in library.get_available_providers():
                # For nodes that TensorRT does not support.
                providers.append((PROVIDERS["onnxruntime-cuda"].ep, {"device_id": str(self._device)}))
            return make_session(self._path, options, providers=[*providers, "CPUExecutionProvider"])
        except IndexError as error:
            raise EmraError(
                "backend-option",
                f"device {self._device}, and {chosen.title} finds {len(devices)} GPU{'' if len(devices) == 1 else 's'}",
                "Give a smaller number",
            ) from error
        except Exception as error:  # ONNX Runtime's own errors share no base but Exception.
            raise self._unusable(library, one_line(error)) from error

    def _check_in_use(self, library: Any) -> None:
        """Refuse a session that would run on the CPU.

        Raises:
            EmraError: ``backend-provider``.
        """
        chosen = self._provider
        if chosen.ep not in self._session.get_providers():
            raise self._unusable(library, f"it runs with {', '.join(self._session.get_providers())} only")
        counts = _count_nodes(self._session)
        if counts:
            mine, every = counts[chosen.ep], sum(counts.values())
            self._nodes = f"{mine} of {every}"
            if not mine:
                raise self._unusable(library, f"it takes none of the {every} nodes of the graph")
            if mine < every:
                rest = ", ".join(f"{count} by {name}" for name, count in counts.items() if name != chosen.ep)
                _log.info("%s runs %s nodes of the graph; %s", chosen.title, self._nodes, rest)

    def _unusable(self, library: Any, reason: str) -> EmraError:
        chosen = self._provider
        known = meaning(number_of(reason))
        check = "Check that nvidia-smi shows the GPU, and that CUDA and its libraries are those of this release"
        remedy = f"{check}. {chosen.get()}" if known is None else known[2]
        return EmraError(
            "backend-provider",
            f"ONNX Runtime {library.__version__} has {chosen.ep}, and cannot run this model with it"
            + ("" if known is None else f": {known[1]}")
            + f" ({reason})",
            f"{remedy}; or use --backend onnxruntime, which runs on the processor",
            self._path,
        )

    def describe(self) -> dict[str, str]:
        """Library, version, provider, GPU, and the number of graph nodes it runs, if known."""
        facts = {
            "backend": self.name,
            "version": load_runtime().__version__,
            "device": f"gpu {self._device}",
            "provider": self._provider.ep,
        }
        return {**facts, "nodes": self._nodes} if self._nodes else facts

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`. A batch that is larger than the engine's is run in parts.

        Raises:
            EmraError: ``gpu-memory`` and ``gpu-lost``; see `GpuGuard.run`.
        """
        check_batch(batch, self.input_shape)
        if self.input_shape[0] is not None or self._largest is None:
            return self._guard.run(batch, super().run)
        run = super().run
        parts = [
            self._guard.run(batch[start : start + used], run) for start, used, _ in chunks(len(batch), 1, self._largest)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _failure(self, message: str, count: int) -> EmraError:
        code = fault_of(message)
        if code is None:
            return super()._failure(message, count)
        remedy = RESTART if code == LOST else "Give a smaller --batch, or close what else uses the GPU"
        return EmraError(code, f"{self._provider.title} cannot run {count} tiles ({message})", remedy, self._path)

    def _needed(self, count: int) -> int | None:
        """Bytes that a batch takes, counted in the graph; None if onnx is not installed."""
        try:
            import onnx

            graph = measure_graph(onnx.load(self._path, load_external_data=False), count)
        # A failure here would only shorten the text of an error.
        except Exception:
            return None
        return Forecast(graph, count).needed


def _find(library: Any, provider: Provider) -> list[Any]:
    """The GPUs found by a provider with its own library; none for a provider built into ONNX Runtime.

    Raises:
        EmraError: ``backend-missing``, ``backend-provider``.
    """
    if provider.ep in library.get_available_providers():
        return []
    devices = _devices(library, provider)
    if not devices and provider.plugin is not None:
        try:
            plugin = importlib.import_module(provider.plugin)
        except ImportError:
            plugin = None
        if plugin is not None:
            _register(library, provider, plugin)
            devices = _devices(library, provider)
            if not devices:
                raise EmraError("backend-provider", f"{provider.plugin} finds no GPU that it can use", provider.get())
    if not devices:
        there = ", ".join(library.get_available_providers())
        raise EmraError(
            "backend-missing",
            f"ONNX Runtime {library.__version__} here has no {provider.ep}; it has {there}",
            provider.get(),
        )
    return devices


def _devices(library: Any, provider: Provider) -> list[Any]:
    ask = getattr(library, "get_ep_devices", None)
    return [] if ask is None else [device for device in ask() if device.ep_name == provider.ep]


def _register(library: Any, provider: Provider, plugin: Any) -> None:
    try:
        library.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's own errors, and those of the plugin.
        if "already registered" not in str(error).lower():
            raise EmraError(
                "backend-provider",
                f"{provider.plugin} is installed and does not load ({one_line(error)})",
                provider.get(),
            ) from error


def _load_libraries(library: Any, provider: Provider) -> None:
    """Load the libraries that a provider links to, if they are in Python packages."""
    printed = io.StringIO()
    # It prints the libraries that it does not find, which may be found in another way.
    with contextlib.redirect_stdout(printed):
        preload = getattr(library, "preload_dlls", None)
        if preload is not None:
            preload()
    for line in filter(None, printed.getvalue().splitlines()):
        _log.debug("onnxruntime.preload_dlls: %s", line)
    for name in provider.libraries:
        # The provider may find them elsewhere; if not, it reports them itself.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _count_nodes(session: Any) -> Counter[str]:
    """The number of nodes that each provider runs; empty if ONNX Runtime does not report it."""
    counts: Counter[str] = Counter()
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    for part in () if ask is None else ask():
        counts[part.ep_name] += len(part.get_nodes())
    return counts


def _make_folder(path: str | os.PathLike[str]) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmraError(
            "backend-option", f"the folder for engines cannot be made ({error.strerror})", "Give another", path
        ) from error
