"""The contract of every graph: inputs and outputs as its Manifest says.

Every backend describes its graph as `Value`s, so that one module checks graphs, prepares inputs and reads outputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emra_deploy.backends.base import Outputs, check_batch
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

EXPORT = "Export the model again with python -m export.to_onnx"

_TYPES = {"classes": "uint8", "logits": "float32", "confidence": "float32"}


@dataclass(frozen=True)
class Value:
    """An input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: NumPy name of the type, such as ``"uint8"``.
        shape: Sizes; None for a dynamic one.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def check_graph(inputs: Sequence[Value], outputs: Sequence[Value], manifest: Manifest) -> None:
    """Refuse a graph that contradicts its Manifest.

    Raises:
        EmraError: ``model-mismatch``, ``class-count``.
    """
    _check_input(inputs, manifest)
    _check_outputs(outputs, manifest)


def _check_input(inputs: Sequence[Value], manifest: Manifest) -> None:
    batch, height, width = manifest.input_shape
    if manifest.input_kind == "uint8":
        expected = Value("image", "uint8", (batch, height, width, 3))
    else:
        expected = Value("image", "float32", (batch, 3, height, width))
    if list(inputs) != [expected]:
        found = ", ".join(f"{value.name!r} {value.dtype} {value.shape}" for value in inputs)
        raise EmraError(
            "model-mismatch",
            f"The graph takes {found or 'nothing'}, and its Manifest says 'image' {expected.dtype} {expected.shape}",
            EXPORT,
        )


def _check_outputs(outputs: Sequence[Value], manifest: Manifest) -> None:
    batch, height, width = manifest.input_shape
    found = {value.name: value for value in outputs}
    if set(found) != set(manifest.heads):
        raise EmraError(
            "model-mismatch", f"The graph gives {sorted(found)}, and its Manifest says {list(manifest.heads)}", EXPORT
        )
    for name, value in found.items():
        classes = len(manifest.classes)
        if name == "logits" and len(value.shape) == 4 and value.shape[1] not in (None, classes):
            raise EmraError(
                "class-count",
                f"The graph gives logits of {value.shape[1]} classes, and its Manifest names {classes}",
                EXPORT,
            )
        channels = (classes,) if name == "logits" else ()
        expected = (batch, *channels, height, width)
        # Shape inference may leave a size dynamic; a static size must be right.
        agrees = len(value.shape) == len(expected) and all(
            size in (None, wanted) for size, wanted in zip(value.shape, expected, strict=True)
        )
        if value.dtype != _TYPES[name] or not agrees:
            raise EmraError(
                "model-mismatch",
                f"Output {name!r} is {value.dtype} {value.shape}, expected {_TYPES[name]} {expected}",
                EXPORT,
            )


def feed(batch: npt.NDArray[np.uint8], manifest: Manifest) -> npt.NDArray[Any]:
    """The graph's input for uint8 B×H×W×3: the same, or normalised float32 B×3×H×W."""
    if manifest.input_kind == "uint8":
        return np.ascontiguousarray(batch)
    mean = np.asarray(manifest.mean, np.float32)
    std = np.asarray(manifest.std, np.float32)
    scaled = (batch.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def finish(outputs: Outputs, count: int, manifest: Manifest, path: str | os.PathLike[str]) -> Outputs:
    """Check the outputs for ``count`` pictures, and add ``classes`` to a graph that outputs only logits.

    Raises:
        EmraError: ``model-mismatch``: dynamic sizes are known only here.
    """
    for name, value in outputs.items():
        channels = (len(manifest.classes),) if name == "logits" else ()
        expected = (count, *channels, *manifest.tile)
        if value.shape != expected:
            raise EmraError(
                "model-mismatch", f"Output {name!r} came as {value.shape}, expected {expected}", EXPORT, path
            )
    if "classes" not in outputs:
        outputs["classes"] = outputs["logits"].argmax(axis=1).astype(np.uint8)
    return outputs


def in_fixed_batches(
    batch: npt.NDArray[np.uint8], size: int | None, run: Callable[[npt.NDArray[np.uint8]], Outputs]
) -> Outputs:
    """Run a batch of any size on a graph that takes ``size`` pictures (None for any): split, the last part padded."""
    if size is None or size == len(batch):
        return run(batch)
    parts = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        used = len(part)
        if used < size:
            part = np.concatenate([part, np.zeros((size - used, *part.shape[1:]), np.uint8)])
        parts.append({key: value[:used] for key, value in run(part).items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class GraphBackend:
    """Base of the backends that run a graph of the size that its Manifest names."""

    manifest: Manifest

    @property
    def input_shape(self) -> tuple[int | None, int, int]:
        """Batch (None when any will do), height and width of the model's input."""
        return self.manifest.input_shape

    def run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label a batch; see `Backend.run`. A batch larger or smaller than a fixed one is split and padded."""
        check_batch(batch, self.input_shape)
        return in_fixed_batches(batch, self.input_shape[0], self._run)

    def _run(self, batch: npt.NDArray[np.uint8]) -> Outputs:
        """Label as many pictures as the graph takes."""
        raise NotImplementedError
