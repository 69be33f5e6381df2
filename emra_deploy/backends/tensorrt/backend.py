"""The TensorRT backend: engines of TensorRT and TensorRT-RTX on a GPU.

Deserialising an engine runs code. Before that, all that can be checked is checked: the file is an engine, the sidecar
belongs to it, it was built for this library, GPU and these plugins, and it fits into memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends import contract
from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.backends.gpu_guard import GpuGuard
from emra_deploy.backends.options import DEFAULTS, LoadOptions
from emra_deploy.backends.tensorrt.admission import REBUILD, check_gpu, check_version, read_description
from emra_deploy.backends.tensorrt.bindings import Binding, chunks
from emra_deploy.backends.tensorrt.cuda import Cuda, open_cuda
from emra_deploy.backends.tensorrt.device import free_memory
from emra_deploy.backends.tensorrt.flavour import TITLES, Flavour, load_flavour, version_text
from emra_deploy.backends.tensorrt.forecast import check_load
from emra_deploy.backends.tensorrt.gpu_errors import LOST, RESTART, fault_of
from emra_deploy.backends.tensorrt.lanes import Lanes, Pending
from emra_deploy.backends.tensorrt.log import Messages, make_logger
from emra_deploy.backends.tensorrt.plan import read_header
from emra_deploy.backends.tensorrt.plugins import inspect_plugin, load_plugin
from emra_deploy.backends.tensorrt.sidecar import Plugin
from emra_deploy.errors import EmraError
from emra_deploy.host.forks import Owner
from emra_deploy.model_file.manifest import Manifest


class TensorRTBackend:
    """Runs an engine file.

    Threads take turns to queue runs, of which two may be in flight; see `lanes`. Memory for the largest batch is
    reserved when the engine is loaded, and none after that.

    Args:
        path: The engine file.
        options: How to open it.
        plugins: Libraries to load instead of those in the sidecar.
        cuda: CUDA; None opens the installed library.

    Raises:
        EmraError: ``model-missing`` and ``model-unreadable`` for files that are not engines; ``engine-sidecar`` and
            ``engine-mismatch`` for a sidecar that is missing, invalid or of another engine; ``engine-flavour``,
            ``engine-version`` and ``engine-gpu`` for engines of another library or GPU; ``memory-forecast``;
            ``plugin-…``; ``backend-missing`` and ``no-gpu`` without TensorRT, CUDA or a GPU; ``model-mismatch`` for an
            engine that contradicts its Manifest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: LoadOptions = DEFAULTS,
        *,
        plugins: Sequence[str | os.PathLike[str]] = (),
        cuda: Cuda | None = None,
    ) -> None:
        header = read_header(path)
        # Read once, so that the bytes loaded are the bytes hashed, even if the file changes meanwhile.
        plan = Path(path).read_bytes()
        sidecar, manifest = read_description(path, plan, options.trust_engine)
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
        """Load an engine that was just built, whose origin needs no proof.

        Args:
            plan: The engine.
            flavour: The library that built it.
            manifest: The model's Manifest.
            cuda: CUDA.
            plugins: Plugins it was built with; builder and runtime have separate registries.

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
        self._lock, self._owner = threading.Lock(), Owner()
        self._messages = Messages()
        self._guard = GpuGuard(flavour.title, lambda count: needed, lambda: free_memory(self._cuda))
        self._lanes: Lanes | None = None
        self._runtime: Any = None
        self._engine: Any = None

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
        self._lanes = Lanes(engine, trt, inputs, outputs, self._largest, self._cuda, self._broken)
        self._memory = "shared" if self._lanes.shared else "copied"

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
            "memory": self._memory,
        }

    @property
    def captured(self) -> tuple[int, ...]:
        """Batch sizes captured as CUDA graphs so far."""
        return self._opened().captured

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`. Batches beyond the engine's profile are split and padded.

        Raises:
            EmraError: ``gpu-memory`` and ``gpu-lost``; see `GpuGuard.run`.
        """
        return self.begin(batch)()

    def begin(self, batch: npt.NDArray[np.uint8]) -> Callable[[], Outputs]:
        """Queue a batch: its pictures are copied to the GPU while the GPU works on the previous batch.

        Args:
            batch: As in `run`.

        Returns:
            A function to be called once, which waits for the outputs and returns them, or raises.

        Raises:
            EmraError: ``batch-shape``.
        """
        check_batch(batch, self.input_shape)
        begun: list[list[Pending]] = []
        if not self._guard.careful:
            begun.append(self._queue(batch))

        def run(part: npt.NDArray[np.uint8]) -> Outputs:
            # The guard begins with the whole batch, which is in flight.
            return self._collect(begun.pop() if begun else self._queue(part))

        def wait() -> Outputs:
            outputs = self._guard.run(batch, run)
            return contract.finish(outputs, len(batch), self.manifest, self._path or "the engine")

        return wait

    def _queue(self, batch: npt.NDArray[np.uint8]) -> list[Pending]:
        """Queue the runs of a batch; a run keeps its error."""
        feed = contract.feed(batch, self.manifest)
        begun: list[Pending] = []
        with self._lock:
            # Earlier messages do not explain this failure, and would accumulate over weeks.
            self._messages.forget()
            for start, used, size in chunks(len(batch), self._smallest, self._largest):
                try:
                    begun.append(self._opened().begin(feed[start : start + used], size))
                except EmraError as error:
                    begun.append(Pending(used, size))
                    begun[-1].error = error
                    break
        return begun

    def _collect(self, begun: list[Pending]) -> Outputs:
        with self._lock:
            parts = [pending.result() for pending in begun]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _opened(self) -> Lanes:
        if self._lanes is None:
            self._owner.check("the engine", self._path)
        assert self._lanes is not None
        return self._lanes

    def layers(self) -> str:
        """The engine's layers as its inspector gives them, JSON."""
        self._owner.check("the engine", self._path)
        engine = self._engine
        form = self._flavour.module.LayerInformationFormat.JSON
        return str(engine.create_engine_inspector().get_engine_information(form))

    def memory(self) -> int | None:
        """Bytes that running takes beside weights, inputs and outputs, as the engine says."""
        self._owner.check("the engine", self._path)
        engine = self._engine
        size = getattr(engine, "device_memory_size_v2", None)
        return None if size is None else int(size)

    def close(self) -> None:
        """Give all memory back."""
        if not self._owner.release():
            return
        with self._lock:
            # The order matters: contexts must be freed after the users of their memory, and before their engine.
            if self._lanes is not None:
                self._lanes.close(self._give_back)
                self._lanes = None
            self._engine = self._runtime = None

    def _give_back(self, free: Callable[[Any], None], what: Any) -> None:
        try:
            free(what)
        except EmraError:
            # Memory of a lost GPU cannot be freed until the process ends.
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
