"""The TensorRT backend: engines of TensorRT and TensorRT-RTX on a GPU.

Deserialising an engine runs code, so everything that can be known of it is checked first: that it is an engine, that
its sidecar is its own, that library, GPU and plugins are those it was built with, and that it fits into memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends import contract
from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.backends.gpu_guard import GpuGuard
from emra_deploy.engine.admission import REBUILD, check_gpu, check_version, read_description
from emra_deploy.engine.bindings import Binding, chunks
from emra_deploy.engine.cuda import Cuda, open_cuda
from emra_deploy.engine.device import free_memory
from emra_deploy.engine.flavour import TITLES, Flavour, load_flavour, version_text
from emra_deploy.engine.forecast import check_load
from emra_deploy.engine.gpu_errors import LOST, RESTART, fault_of
from emra_deploy.engine.log import Messages, make_logger
from emra_deploy.engine.plan import read_header
from emra_deploy.engine.plugins import inspect_plugin, load_plugin
from emra_deploy.engine.sidecar import Plugin
from emra_deploy.errors import EmraError
from emra_deploy.manifest import Manifest


@dataclass
class _Slot:
    """Memory of one tensor: on the host, and on the GPU."""

    binding: Binding
    host: npt.NDArray[np.uint8]
    address: int


class TensorRTBackend:
    """Runs an engine file.

    One context and one stream: threads take turns. Memory for the largest batch is reserved when the engine is loaded,
    and none after that.

    Args:
        path: The engine file.
        manifest: Used in place of the sidecar's, when given.
        trusted: Whether to load the engine without a sidecar that matches it. Loading runs the engine's code.
        plugins: Libraries to load in place of those that the sidecar names.
        cuda: CUDA; None opens whichever library is here.

    Raises:
        EmraError: ``model-missing`` and ``model-unreadable`` for files that are no engines; ``engine-sidecar`` and
            ``engine-mismatch`` for a sidecar that is missing, wrong or another's; ``engine-flavour``,
            ``engine-version`` and ``engine-gpu`` for engines of another library or GPU; ``memory-forecast``;
            ``plugin-…``; ``backend-missing`` and ``no-gpu`` for what this machine lacks; ``model-mismatch`` for an
            engine that is not what its Manifest says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        manifest: Manifest | None = None,
        *,
        trusted: bool = False,
        plugins: Sequence[str | os.PathLike[str]] = (),
        cuda: Cuda | None = None,
    ) -> None:
        header = read_header(path)
        # Read once: what is hashed is what is loaded, whatever happens to the file meanwhile.
        plan = Path(path).read_bytes()
        sidecar, manifest = read_description(path, plan, manifest, trusted)
        flavour = load_flavour(header.flavour)
        check_version(header, flavour, sidecar, path)
        self._cuda = open_cuda() if cuda is None else cuda
        if sidecar is not None:
            check_gpu(sidecar, self._cuda.facts(), path)
            free = free_memory(self._cuda)
            if free is not None:
                check_load(sidecar.memory.total, free, os.fspath(path))
        named = sidecar.plugins if sidecar else ()
        libraries = [inspect_plugin(library, flavour) for library in plugins] or list(named)
        self._open(plan, flavour, manifest, path, None if sidecar is None else sidecar.memory.total)
        self._load(libraries)

    @classmethod
    def of_plan(
        cls, plan: bytes, flavour: Flavour, manifest: Manifest, cuda: Cuda, plugins: Sequence[Plugin] = ()
    ) -> TensorRTBackend:
        """Load an engine that was just built, which needs no proof of where it came from.

        Args:
            plan: The engine.
            flavour: The library that built it.
            manifest: Of the model.
            cuda: CUDA.
            plugins: What it was built with; builders and runtimes have registries of their own.

        Raises:
            EmraError: ``model-unreadable``, ``model-mismatch``, ``gpu-memory``.
        """
        backend = cls.__new__(cls)
        backend._cuda = cuda
        backend._open(plan, flavour, manifest, None)
        backend._load(plugins)
        return backend

    def _open(
        self,
        plan: bytes,
        flavour: Flavour,
        manifest: Manifest,
        path: str | os.PathLike[str] | None,
        needed: int | None = None,
    ) -> None:
        self._plan: bytes | None = plan
        self.manifest, self._flavour, self._path = manifest, flavour, path
        self._lock = threading.Lock()
        self._messages = Messages()
        self._guard = GpuGuard(flavour.title, lambda count: needed, lambda: free_memory(self._cuda))
        self._slots: list[_Slot] = []
        self._stream = 0
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None

    def _load(self, libraries: Sequence[Plugin]) -> None:
        trt = self._flavour.module
        self._logger = make_logger(trt, self._messages)
        self._runtime = trt.Runtime(self._logger)
        if self._runtime is None:
            raise self._unreadable("has no runtime here")
        registry = self._runtime.get_plugin_registry() if libraries else None
        for library in libraries:
            load_plugin(library, registry, self._flavour)
        self._engine = self._runtime.deserialize_cuda_engine(self._plan)
        self._plan = None
        if self._engine is None:
            raise self._unreadable("cannot load this engine")
        try:
            self._bind()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        """Check the engine's tensors and reserve their memory."""
        engine = self._engine
        trt = self._flavour.module
        inputs: list[Binding] = []
        outputs: list[Binding] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            binding = Binding(name, shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(binding)
        try:
            contract.check_graph([_value(binding) for binding in inputs], [_value(b) for b in outputs], self.manifest)
        except EmraError as error:
            raise EmraError(error.code, error.cause, REBUILD, self._path) from error
        low, _, high = (tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0))
        self._smallest, self._largest = int(low[0]), int(high[0])
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EmraError(
                "gpu-memory",
                f"{self._flavour.title} cannot make room for running the engine ({self._messages.reason()})",
                "Close what else uses the GPU, or build an engine with a smaller --max-batch",
                self._path,
            )
        self._stream = self._cuda.stream()
        for binding in (*inputs, *outputs):
            size = binding.size(self._largest)
            slot = _Slot(binding, self._cuda.host(size), 0)
            self._slots.append(slot)
            slot.address = self._cuda.device(size)
            if not self._context.set_tensor_address(binding.name, slot.address):
                raise self._broken(f"refuses the address of {binding.name!r}")

    @property
    def name(self) -> str:
        """``"tensorrt"`` or ``"tensorrt-rtx"``."""
        return TITLES[self._flavour.name].lower()

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch (None when the engine takes several), height and width of the model's input."""
        _, height, width = self.manifest.input_shape
        fixed = self._largest if self._smallest == self._largest else None
        return fixed, height, width

    def describe(self) -> dict[str, str]:
        """Library, version and GPU."""
        facts = self._cuda.facts()
        return {
            "backend": self.name,
            "version": version_text(self._flavour.version),
            "device": f"{facts.name} (sm_{facts.sm.replace('.', '')})",
            "batch": f"{self._smallest} to {self._largest}",
        }

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`. Batches beyond the engine's profile are split and padded.

        Raises:
            EmraError: ``gpu-memory`` and ``gpu-lost``; see `GpuGuard.run`.
        """
        check_batch(batch, self.input_shape)
        outputs = self._guard.run(batch, self._in_turn)
        return contract.finish(outputs, len(batch), self.manifest, self._path or "the engine")

    def _in_turn(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        feed = contract.feed(batch, self.manifest)
        parts = []
        with self._lock:
            # What it said before has nothing to do with what fails now, and would pile up over weeks.
            self._messages.forget()
            for start, used, size in chunks(len(batch), self._smallest, self._largest):
                parts.append(self._run(feed[start : start + used], size))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _run(self, feed: npt.NDArray[Any], size: int) -> Outputs:
        """One run of ``size`` pictures, of which ``feed`` fills the first."""
        context, cuda = self._context, self._cuda
        if context is None:
            raise EmraError("model-run", "The engine is closed", "Open it again", self._path)
        image, outputs = self._slots[0], self._slots[1:]
        view = image.binding.view(image.host, size)
        view[: len(feed)] = feed
        view[len(feed) :] = 0
        cuda.upload(image.address, image.host[: image.binding.size(size)], self._stream)
        if not context.set_input_shape("image", view.shape):
            raise self._broken(f"refuses an input of {view.shape}")
        if not context.execute_async_v3(self._stream):
            raise self._broken(f"did not run {size} tiles")
        for slot in outputs:
            cuda.download(slot.host[: slot.binding.size(size)], slot.address, self._stream)
        cuda.synchronize(self._stream)
        found: Outputs = {}
        for slot in outputs:
            # A copy: the next run writes here.
            found[slot.binding.name] = slot.binding.view(slot.host, size)[: len(feed)].copy()
        return found

    def layers(self) -> str:
        """The engine's layers as its inspector gives them, JSON."""
        engine = self._engine
        form = self._flavour.module.LayerInformationFormat.JSON
        return str(engine.create_engine_inspector().get_engine_information(form))

    def memory(self) -> int | None:
        """Bytes that running takes beside weights, inputs and outputs, as the engine says."""
        engine = self._engine
        size = getattr(engine, "device_memory_size_v2", None)
        return None if size is None else int(size)

    def close(self) -> None:
        """Give all memory back."""
        with self._lock:
            # In this order: a context must not outlive its memory's users, nor an engine its contexts.
            self._context = self._engine = self._runtime = None
            for slot in self._slots:
                if slot.address:
                    self._give_back(self._cuda.free_device, slot.address)
                self._give_back(self._cuda.free_host, slot.host)
            self._slots = []
            if self._stream:
                self._give_back(self._cuda.free_stream, self._stream)
                self._stream = 0

    def _give_back(self, free: Callable[[Any], None], what: Any) -> None:
        try:
            free(what)
        except EmraError:
            # Of a GPU that is lost nothing can be given back: the end of the process does it.
            if not self._guard.lost:
                raise

    def _unreadable(self, what: str) -> EmraError:
        return EmraError(
            "model-unreadable",
            f"{self._flavour.title} {what} ({self._messages.reason()})",
            "It may be damaged, or built with other versions of TensorRT, CUDA or driver. " + REBUILD,
            self._path,
        )

    def _broken(self, what: str) -> EmraError:
        reason = self._messages.reason()
        code = fault_of(reason)
        remedy = "Give a smaller --batch or free memory; if that is not it, build the engine again"
        return EmraError(
            code or "model-run",
            f"{self._flavour.title} {what} ({reason})",
            RESTART if code == LOST else remedy,
            self._path,
        )


def _value(binding: Binding) -> contract.Value:
    shape = tuple(None if size < 0 else size for size in binding.shape)
    return contract.Value(binding.name, str(binding.dtype), shape)
