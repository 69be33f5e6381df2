"""Candidates that are files: ONNX and engines, through the backends that the runtime itself uses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.candidates import profiles
from benchmarks.candidates.spec import Spec
from benchmarks.candidates.timed import Batch, LayerTime, TimedBackend
from emra_deploy.backends.base import Backend, Outputs, Wrapper
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.selftest import self_test


class TimedFile(Wrapper):
    """Times a model file on a backend that computes in host memory.

    Args:
        spec: The requested candidate.
        backend: The loaded model.

    Raises:
        EmraError: ``model-size`` and ``model-batch`` for a file that does not accept the requested input.
    """

    def __init__(self, spec: Spec, backend: Backend) -> None:
        super().__init__(backend)
        self._spec = spec
        self.stages: Mapping[str, float] = {}
        fixed, height, width = backend.input_shape
        if spec.size not in (None, (height, width)):
            raise EmraError(
                "model-size",
                f"The model takes {height}x{width}, not {spec.size[0]}x{spec.size[1]}",
                "Leave --sizes out, or export the model at that size with python -m export.to_onnx",
                spec.path,
            )
        if fixed not in (None, spec.batch):
            raise EmraError(
                "model-batch",
                f"The model takes batches of {fixed}, not of {spec.batch}",
                f"Give --batch {fixed}, or export the model with a dynamic batch",
                spec.path,
            )

    @property
    def cuda_graph(self) -> bool | None:
        """None: there is no GPU."""
        return None

    @property
    def precision(self) -> str:
        """Precision of the file, or the one the backend reports to compute in."""
        computed = self.describe().get("precision")
        return self.manifest.precision + ("" if computed is None else f", computed in {computed}")

    def run(self, batch: Batch) -> Outputs:
        """Label a batch and time it."""
        begin = time.perf_counter()
        outputs = self.backend.run(batch)
        self.stages = {"compute": time.perf_counter() - begin}
        return outputs

    def profile(self, batch: Batch, runs: int) -> list[LayerTime] | None:
        """Implement `TimedBackend.profile`."""
        assert self._spec.path is not None
        if self._spec.backend == "onnxruntime":
            return profiles.profile_onnxruntime(self._spec.path, self.manifest, batch, runs, self._spec.threads)
        if self._spec.backend == "openvino":
            return profiles.profile_openvino(
                self._spec.path, self.manifest, batch, runs, self._spec.threads, self.describe()["precision"]
            )
        return None


class TimedEngine(TimedFile):
    """Times an engine: copies to and from the GPU apart, by waiting for the GPU after each.

    Waiting costs two synchronisations a run, about 10 µs together; end to end includes them.
    """

    def __init__(self, spec: Spec, backend: Backend, clock: TimedCuda) -> None:
        super().__init__(spec, backend)
        self._clock = clock

    @property
    def cuda_graph(self) -> bool:
        """Whether batches of this size are replayed by now; see `emra_deploy.backends.tensorrt.lanes`."""
        return self._spec.batch in getattr(self.backend, "captured", ())

    def run(self, batch: Batch) -> Outputs:
        """Label a batch and time its stages."""
        self._clock.start()
        outputs = self.backend.run(batch)
        self.stages = self._clock.stages()
        return outputs


class TimedCuda:
    """CUDA for the TensorRT backend, with timing: every call is forwarded.

    Args:
        cuda: An `emra_deploy.backends.tensorrt.cuda.Cuda`.
        graphs: Whether the backend may capture CUDA graphs, where it and its CUDA can.
    """

    def __init__(self, cuda: Any, graphs: bool = True) -> None:
        self._cuda, self._graphs = cuda, graphs
        self.start()

    @property
    def captures(self) -> bool:
        """Whether the backend captures CUDA graphs."""
        return self._graphs and bool(getattr(self._cuda, "captures", False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)

    def start(self) -> None:
        """Begin a run."""
        self._upload = self._download = 0.0
        self._begin = time.perf_counter()

    def upload(self, address: int, memory: Any, stream: int) -> None:
        """Copy to the GPU and wait."""
        begin = time.perf_counter()
        self._cuda.upload(address, memory, stream)
        self._cuda.synchronize(stream)
        self._upload += time.perf_counter() - begin

    def download(self, memory: Any, address: int, stream: int) -> None:
        """Wait for what runs, which is computing; then copy back and wait."""
        self._cuda.synchronize(stream)
        begin = time.perf_counter()
        self._cuda.download(memory, address, stream)
        self._cuda.synchronize(stream)
        self._download += time.perf_counter() - begin

    def stages(self) -> dict[str, float]:
        """Seconds since `start`; computing is the remainder, including the host's part of a run."""
        total = time.perf_counter() - self._begin
        return {"upload": self._upload, "compute": total - self._upload - self._download, "download": self._download}


def open_file(spec: Spec, check: bool = True) -> TimedBackend:
    """Load a file and run its self-test: a fast wrong answer is no benchmark.

    Args:
        spec: Names the file and its backend.
        check: Whether to run the self-test.

    Raises:
        EmraError: Those of the backend, ``model-size``, ``model-batch``, ``self-test-failed``, ``backend-option``.
    """
    assert spec.path is not None
    backend: TimedBackend
    if spec.backend == "onnxruntime" and spec.option is not None:
        from benchmarks.candidates.ort_device import open_on_device

        backend = open_on_device(spec)
    elif spec.backend == "tensorrt":
        from emra_deploy.backends.tensorrt.backend import TensorRTBackend
        from emra_deploy.backends.tensorrt.cuda import open_cuda

        clock: Any = TimedCuda(open_cuda(), graphs=spec.option != "no-graph")
        backend = TimedEngine(spec, TensorRTBackend(spec.path, spec.load_options(), cuda=clock), clock)
    else:
        backend = TimedFile(spec, open_backend(spec.path, spec.load_options()))
    if check:
        try:
            self_test(backend)
        except EmraError as error:
            backend.close()
            raise EmraError(error.code, error.cause, error.remedy, spec.path) from error
    return backend
