"""Candidates that are files: ONNX and engines, through the backends that the runtime itself uses."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.candidates import profiles
from benchmarks.candidates.runner import Batch, Layer, Runner
from benchmarks.candidates.spec import Spec
from emra_deploy.backends.base import Backend
from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.manifest import Manifest
from emra_deploy.segmenting.selftest import self_test


class FileRunner:
    """A model file on a backend that computes in host memory.

    Args:
        spec: What is asked for.
        backend: The loaded model.
        manifest: What the file says about itself.
    """

    cuda_graph: bool | None = None

    def __init__(self, spec: Spec, backend: Backend, manifest: Manifest) -> None:
        self._spec, self._backend, self.manifest = spec, backend, manifest
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
        self.size = (height, width)

    @property
    def backend(self) -> Backend:
        """What runs the file."""
        return self._backend

    @property
    def classes(self) -> ClassSet:
        """What the labels mean."""
        return self.manifest.classes

    @property
    def precision(self) -> str:
        """Of the file, and what the backend makes of it where it says so."""
        told = self._backend.describe().get("precision")
        return self.manifest.precision if told is None else f"{self.manifest.precision}, computed in {told}"

    def run(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """See `Runner.run`."""
        begin = time.perf_counter()
        labels = self._backend.run(batch)["classes"]
        return labels, {"compute": time.perf_counter() - begin}

    def check(self) -> float | None:
        """The self-test's share of differing pixels; None for a file without a golden tile.

        Raises:
            EmraError: ``self-test-failed``: a fast wrong answer is no benchmark.
        """
        return self_test(self._backend, self.manifest)

    def describe(self) -> dict[str, str]:
        """Library, version, device, threads."""
        return self._backend.describe()

    def profile(self, batch: Batch, runs: int) -> list[Layer] | None:
        """See `Runner.profile`."""
        assert self._spec.path is not None
        if self._spec.backend == "onnxruntime":
            return profiles.profile_onnxruntime(self._spec.path, self.manifest, batch, runs, self._spec.threads)
        if self._spec.backend == "openvino":
            return profiles.profile_openvino(
                self._spec.path, self.manifest, batch, runs, self._spec.threads, self.describe()["precision"]
            )
        return None

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


class EngineRunner(FileRunner):
    """An engine: copies to and from the GPU are timed apart, by waiting for the GPU after each.

    Waiting costs two synchronisations a run, about 10 µs together; end to end includes them.
    """

    def __init__(self, spec: Spec, backend: Backend, manifest: Manifest, clock: TimedCuda) -> None:
        super().__init__(spec, backend, manifest)
        self._clock = clock

    @property
    def cuda_graph(self) -> bool:
        """Whether batches of this size are replayed by now; see `emra_deploy.backends.tensorrt.lanes`."""
        return self._spec.batch in getattr(self._backend, "captured", ())

    def run(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """See `Runner.run`."""
        self._clock.start()
        labels = self._backend.run(batch)["classes"]
        return labels, self._clock.stages()


class TimedCuda:
    """CUDA as the TensorRT backend asks for it, with a clock: everything is passed on.

    Args:
        cuda: An `emra_deploy.backends.tensorrt.cuda.Cuda`.
        graphs: Whether the backend may capture CUDA graphs, where it and its CUDA can.
    """

    def __init__(self, cuda: Any, graphs: bool = True) -> None:
        self._cuda, self._graphs = cuda, graphs
        self.start()

    @property
    def captures(self) -> bool:
        """What the backend asks before it captures."""
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
        """Seconds since `start`; computing is what is left, the host's share of a run included."""
        total = time.perf_counter() - self._begin
        return {"upload": self._upload, "compute": total - self._upload - self._download, "download": self._download}


def open_file(spec: Spec, check: bool = True) -> Runner:
    """Load a file and, unless told otherwise, run its self-test.

    Raises:
        EmraError: Those of the backend, ``model-size``, ``model-batch``, ``self-test-failed``, ``backend-option``.
    """
    assert spec.path is not None
    if spec.backend == "onnxruntime" and spec.option is not None:
        from benchmarks.candidates.ort_device import open_on_device

        return open_on_device(spec, check)
    if spec.backend == "tensorrt":
        return _open_engine(spec, check)
    backend, manifest = open_backend(spec.path, spec.load_options())
    runner = FileRunner(spec, backend, manifest)
    return _checked(runner) if check else runner


def _open_engine(spec: Spec, check: bool) -> FileRunner:
    from emra_deploy.backends.tensorrt.backend import TensorRTBackend
    from emra_deploy.backends.tensorrt.cuda import open_cuda

    assert spec.path is not None
    clock: Any = TimedCuda(open_cuda(), graphs=spec.option != "no-graph")
    backend = TensorRTBackend(spec.path, spec.load_options(), cuda=clock)
    runner = EngineRunner(spec, backend, backend.manifest, clock)
    return _checked(runner) if check else runner


def _checked(runner: FileRunner) -> FileRunner:
    try:
        runner.check()
    except EmraError as error:
        runner.close()
        raise EmraError(error.code, error.cause, error.remedy, runner._spec.path) from error
    return runner
