"""Candidates that PyTorch runs: checkpoints and peers, eagerly, compiled, or as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.candidates.peers import make_peer
from benchmarks.candidates.spec import Spec
from benchmarks.candidates.timed import Batch, LayerTime
from emra_deploy.backends.base import Outputs
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet
from emra_deploy.model_file.manifest import Manifest
from training.backend import TorchBackend, checkpoint_manifest, peer_manifest

PEER_SIZE = (512, 512)
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Replay:
    """A function of one tensor as a CUDA graph, captured at the first call; later ones copy their tensor into it."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, pixels: Tensor) -> Any:
        """Replay; the result is overwritten by the next call.

        Args:
            pixels: On the GPU, of one shape for all calls.
        """
        if self._graph is None:
            self._input = pixels.clone()
            # Libraries choose and allocate on the first calls, which a capture must not see.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._function(self._input)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = self._function(self._input)
        self._input.copy_(pixels)
        self._graph.replay()
        return self._output


class TimedTorch(TorchBackend):
    """The PyTorch backend, timed, on a GPU if available; on request compiled, in half precision or as a CUDA graph.

    Args:
        spec: The requested candidate.
        model: Normalised B x 3 x H x W to logits B x C x H x W.
        manifest: Its size, classes, mean and std.
    """

    def __init__(self, spec: Spec, model: nn.Module, manifest: Manifest) -> None:
        # Labels only, as exported graphs give.
        super().__init__(model, replace(manifest, heads=("classes",)), "cuda" if torch.cuda.is_available() else "cpu")
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        self._spec = spec
        self._half = _HALVES.get(spec.option or "")
        self._on_gpu = self.device.type == "cuda"
        graphs = spec.option == "graph"
        if graphs and not self._on_gpu:
            raise EmraError("backend-option", "CUDA graphs need a CUDA device", "Measure without :graph")
        self.cuda_graph = graphs if self._on_gpu else None
        self.stages: dict[str, float] = {}
        self._forward: Callable[[Tensor], dict[str, Tensor]] = super().compute
        if spec.backend == "torch-compile":
            mode = "reduce-overhead" if graphs else None
            self._forward = torch.compile(super().compute, dynamic=False, mode=mode)
        elif graphs:
            self._forward = Replay(super().compute)

    @property
    def precision(self) -> str:
        """Precision of the computation."""
        return "fp32" if self._half is None else f"fp32 weights, autocast to {self._spec.option}"

    def _context(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._half is None else torch.autocast(self.device.type, self._half)

    def run(self, batch: Batch) -> Outputs:
        """Label a batch; its `stages` are those of the device, or all of it where it is the processor."""
        self.stages = {}
        begin = time.perf_counter()
        outputs = super().run(batch)
        if not self._on_gpu:
            self.stages = {"compute": time.perf_counter() - begin}
        return outputs

    def upload(self, batch: Batch) -> Tensor:
        """A batch on the device, timed."""
        return self._timed("upload", super().upload, batch)

    def compute(self, pixels: Tensor) -> dict[str, Tensor]:
        """The labels on the device, timed."""
        with self._context():
            return self._timed("compute", self._forward, pixels)

    def download(self, outputs: dict[str, Tensor]) -> Outputs:
        """The labels in host memory, timed."""
        return self._timed("download", super().download, outputs)

    def _timed(self, stage: str, function: Callable[[_Given], _Made], given: _Given) -> _Made:
        begin = time.perf_counter()
        made = function(given)
        if self._on_gpu:
            torch.cuda.synchronize(self.device)
        self.stages[stage] = time.perf_counter() - begin
        return made

    def describe(self) -> dict[str, str]:
        """Library, version, device, threads and precision."""
        name = torch.cuda.get_device_name(self.device) if self._on_gpu else "cpu"
        return {**super().describe(), "backend": self._spec.backend, "device": name, "precision": self.precision}

    def profile(self, batch: Batch, runs: int) -> list[LayerTime] | None:
        """By torch's profiler: time of each operator itself, on the device that computes."""
        from torch.profiler import ProfilerActivity, profile

        self.run(batch)
        with profile(activities=[ProfilerActivity.CUDA if self._on_gpu else ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                self.run(batch)
        field = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        found = [(entry.key, getattr(entry, field) / 1e6 / runs) for entry in profiler.key_averages()]
        return [LayerTime(name, name, seconds) for name, seconds in found if seconds > 0]

    def parameter_bytes(self) -> int:
        """Of all weights and buffers."""
        values = (*self._model.parameters(), *self._model.buffers())
        return sum(value.numel() * value.element_size() for value in values)

    def close(self) -> None:
        """Let the model go."""
        super().close()
        del self._forward
        torch.compiler.reset()
        if self._on_gpu:
            torch.cuda.empty_cache()


def open_torch(spec: Spec) -> TimedTorch:
    """Load a checkpoint or make a peer.

    Raises:
        EmraError: Those of the checkpoint, and of `make_peer`.
    """
    if spec.kind == "checkpoint":
        from training.checkpoint import load_checkpoint

        assert spec.path is not None
        checkpoint = load_checkpoint(spec.path)
        if spec.size is not None:
            checkpoint.model.set_image_size(*spec.size)
        return TimedTorch(spec, checkpoint.model, checkpoint_manifest(checkpoint, spec.name))
    size = spec.size or PEER_SIZE
    peer, count = make_peer(spec.name, size, spec.path)
    names = tuple(f"class {index}" for index in range(count))
    palette = tuple((7 * index, 255 - 7 * index, 128) for index in range(count))
    return TimedTorch(spec, peer, peer_manifest(spec.name, ClassSet(names, palette), size, _MEAN, _STD))
