"""Candidates that PyTorch runs: checkpoints and peers, eagerly, compiled, or as CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.candidates.peers import make_peer
from benchmarks.candidates.runner import Batch, Layer
from benchmarks.candidates.spec import Spec
from emra_deploy.errors import EmraError
from emra_deploy.model_file.classes import ClassSet

PEER_SIZE = (512, 512)
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Replay:
    """A function of one tensor as a CUDA graph, captured at the first call; later ones copy their tensor into it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
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


class TorchRunner:
    """A model of PyTorch, with the same work around it as the exported graphs: normalisation, argmax, uint8 labels.

    Args:
        spec: What is asked for.
        model: Normalised B x 3 x H x W to logits B x C x H x W.
        classes: What the labels mean.
        size: Height and width.
        mean: Of red, green and blue scaled to 0..1.
        std: Of the same.
    """

    def __init__(
        self,
        spec: Spec,
        model: nn.Module,
        classes: ClassSet,
        size: tuple[int, int],
        mean: tuple[float, ...] = _MEAN,
        std: tuple[float, ...] = _STD,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        self.size, self.classes, self._spec = size, classes, spec
        self._model = model.eval().to(self.device)
        self._mean, self._std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (mean, std))
        self._half = _HALVES.get(spec.option or "")
        graphs = spec.option == "graph"
        if graphs and self.device.type != "cuda":
            raise EmraError("backend-option", "CUDA graphs need a CUDA device", "Measure without :graph")
        self.cuda_graph = graphs if self.device.type == "cuda" else None
        self._forward: Any = self._labels
        if spec.backend == "torch-compile":
            self._forward = torch.compile(self._labels, dynamic=False, mode="reduce-overhead" if graphs else None)
        elif graphs:
            self._forward = Replay(self._labels)

    @property
    def precision(self) -> str:
        """What it computes in."""
        return "fp32" if self._half is None else f"fp32 weights, autocast to {self._spec.option}"

    def _labels(self, pixels: Tensor) -> Tensor:
        image = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        return self._model(image).argmax(dim=1).to(torch.uint8)

    def _context(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._half is None else torch.autocast(self.device.type, self._half)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run(self, batch: Batch) -> tuple[Batch, dict[str, float]]:
        """See `Runner.run`."""
        on_device = self.device.type == "cuda"
        with torch.inference_mode(), self._context():
            begin = time.perf_counter()
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
            self._wait()
            uploaded = time.perf_counter()
            labels = self._forward(pixels)
            self._wait()
            computed = time.perf_counter()
            found = labels.cpu().numpy()
            end = time.perf_counter()
        if not on_device:
            return found, {"compute": end - begin}
        return found, {"upload": uploaded - begin, "compute": computed - uploaded, "download": end - computed}

    def describe(self) -> dict[str, str]:
        """Library, version, device, threads."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "backend": self._spec.backend,
            "version": torch.__version__,
            "device": name,
            "threads": str(torch.get_num_threads()),
            "precision": self.precision,
        }

    def profile(self, batch: Batch, runs: int) -> list[Layer] | None:
        """By torch's profiler: time of each operator itself, on the device that computes."""
        from torch.profiler import ProfilerActivity, profile

        on_device = self.device.type == "cuda"
        self.run(batch)
        with profile(activities=[ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                self.run(batch)
        field = "self_device_time_total" if on_device else "self_cpu_time_total"
        found = [(entry.key, getattr(entry, field) / 1e6 / runs) for entry in profiler.key_averages()]
        return [Layer(name, name, seconds) for name, seconds in found if seconds > 0]

    def parameter_bytes(self) -> int:
        """Of all weights and buffers."""
        values = (*self._model.parameters(), *self._model.buffers())
        return sum(value.numel() * value.element_size() for value in values)

    def close(self) -> None:
        """Let the model go."""
        del self._model, self._forward
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def open_torch(spec: Spec) -> TorchRunner:
    """Load a checkpoint or make a peer.

    Raises:
        EmraError: Those of the checkpoint, and of `make_peer`.
    """
    if spec.kind == "checkpoint":
        from training.checkpoint import load_checkpoint

        assert spec.path is not None
        checkpoint = load_checkpoint(spec.path)
        model = checkpoint.model
        if spec.size is not None:
            model.set_image_size(*spec.size)
        return TorchRunner(spec, model, checkpoint.classes, model.config.image_size, checkpoint.mean, checkpoint.std)
    size = spec.size or PEER_SIZE
    peer, count = make_peer(spec.name, size, spec.path)
    names = tuple(f"class {index}" for index in range(count))
    palette = tuple((7 * index, 255 - 7 * index, 128) for index in range(count))
    return TorchRunner(spec, peer, ClassSet(names, palette), size)
