"""Backends that time themselves, and the pipeline around one: decode, upload, compute, download, post-processing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Backend
from emra_deploy.pictures.images import read_image
from emra_deploy.segmenting.segmentation import Segmentation

STAGES = ("decode", "upload", "compute", "download", "post", "end_to_end")
"""Upload and download are missing where there is no device memory to copy to."""

Batch = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer.

    Attributes:
        name: In the backend's graph.
        kind: Its operator.
        seconds: Mean of the profiled runs.
    """

    name: str
    kind: str
    seconds: float


class TimedBackend(Backend, Protocol):
    """A backend that times the stages of each run, for batches of one size."""

    @property
    def stages(self) -> Mapping[str, float]:
        """Seconds of the last run's ``compute`` and, with a device, ``upload`` and ``download``."""
        ...

    @property
    def cuda_graph(self) -> bool | None:
        """Whether a CUDA graph is replayed; None where there is no GPU."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the computation, for people."""
        ...

    def profile(self, batch: Batch, runs: int) -> list[LayerTime] | None:
        """Time of each layer, or None where the backend does not give it. Slows the model down meanwhile."""
        ...


class Pipeline:
    """One iteration of a candidate, from files to areas per class.

    Post-processing is the runtime's work on the labels of a picture: checking them and counting the area of each class.

    Args:
        backend: The loaded model.
        pictures: Files, of which each iteration takes the next ``batch``.
        batch: Pictures at once.
    """

    def __init__(self, backend: TimedBackend, pictures: Sequence[Path], batch: int) -> None:
        self.backend, self._pictures, self._batch = backend, pictures, batch

    def __call__(self, number: int) -> Mapping[str, float]:
        """Seconds of each stage of iteration ``number``."""
        count = len(self._pictures)
        names = [self._pictures[(number * self._batch + index) % count] for index in range(self._batch)]
        begin = time.perf_counter()
        batch = np.stack([read_image(name) for name in names])
        decoded = time.perf_counter()
        labels = self.backend.run(batch)["classes"]
        ran = time.perf_counter()
        for picture in labels:
            Segmentation(picture, self.backend.manifest.classes).areas(1.0)
        end = time.perf_counter()
        return {"decode": decoded - begin, **self.backend.stages, "post": end - ran, "end_to_end": end - begin}

    def batch(self) -> Batch:
        """A batch, for profiling."""
        names = [self._pictures[index % len(self._pictures)] for index in range(self._batch)]
        return np.stack([read_image(name) for name in names])


def describe_profile(layers: Sequence[LayerTime], slowest: int = 12) -> dict[str, Any]:
    """A profile as JSON values: time by operator, and the slowest layers."""
    total = sum(layer.seconds for layer in layers)
    kinds: dict[str, float] = {}
    for layer in layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0.0) + layer.seconds
    order = sorted(kinds.items(), key=lambda item: -item[1])
    top = sorted(layers, key=lambda layer: -layer.seconds)[:slowest]
    return {
        "layers": len(layers),
        "seconds": total,
        "kinds": [
            {"kind": kind, "seconds": seconds, "share": seconds / total if total else 0} for kind, seconds in order
        ],
        "slowest": [{"name": layer.name, "kind": layer.kind, "seconds": layer.seconds} for layer in top],
    }
