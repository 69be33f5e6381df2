"""Estimate of the memory that an engine needs, compared with the free memory before a build or load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from emra_deploy.backends.tensorrt.device import FreeMemory
from emra_deploy.backends.tensorrt.graph_memory import GraphMemory
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest

SCRATCH = 32 * 2**20
"""Memory that kernels take besides their operands: at batch 1, engines of TensorRT-RTX 1.7 take 1 to 32 MB more than
counted (docs/engines.md has the table and the command)."""

MARGIN = 1.2
"""At larger batches engines take up to a tenth more than counted; with `SCRATCH`, up to three tenths more for the
explicit form."""

_STEP = 32
_SMALLEST = 128


@dataclass(frozen=True)
class Forecast:
    """Estimated memory of running an engine, in bytes.

    Attributes:
        graph: Memory of the graph at the largest batch.
        batch: The largest batch.
    """

    graph: GraphMemory
    batch: int

    @property
    def activations(self) -> int:
        """Upper estimate of activations and scratch memory."""
        return round(self.graph.activations * MARGIN) + SCRATCH

    @property
    def needed(self) -> int:
        """Weights, inputs, outputs, and `activations`."""
        return self.graph.weights + self.graph.io + self.activations

    @property
    def certain(self) -> bool:
        """Whether the sizes of all values are known."""
        return self.graph.unknown == 0

    def describe(self) -> str:
        """One line for people."""
        graph = self.graph
        attention = f", {_megabytes(graph.attention)} of them attention matrices" if graph.attention else ""
        unsure = "" if self.certain else f"; {graph.unknown} values of unknown size are left out"
        return (
            f"memory at batch {self.batch}: at most {_megabytes(self.needed)} (weights {_megabytes(graph.weights)},"
            f" activations {_megabytes(graph.activations)}{attention}, scratch up to {_megabytes(SCRATCH)}, input"
            f" and output {_megabytes(graph.io)}{unsure})"
        )


def smaller_sizes(forecast: Forecast, manifest: Manifest, free: int) -> list[str]:
    """Options of to_onnx and build_engine with which the engine would fit into ``free`` bytes, best first.

    Attention matrices grow with the fourth power of the side length; all else except weights with the second.
    """
    graph, batch = forecast.graph, forecast.batch
    ways = []
    if batch > 1 and Forecast(_scaled(graph, 1 / batch, 1 / batch), 1).needed <= free:
        ways.append("batch 1")
    height, width = manifest.tile
    shorter = min(height, width)
    for side in range((shorter - 1) // _STEP * _STEP, _SMALLEST - 1, -_STEP):
        share = side / shorter
        if Forecast(_scaled(graph, share**4, share**2), batch).needed <= free:
            ways.append(f"--size {round(height * share)} {round(width * share)} when exporting")
            break
    if manifest.aggregation != "plugin" and Forecast(_scaled(graph, 0.0, 1.0), batch).needed <= free:
        forms = "the streamed or the plugin form" if manifest.aggregation == "explicit" else "the plugin form"
        ways.append(f"{forms} (to_onnx --aggregation)")
    return ways


def check_fits(forecast: Forecast, manifest: Manifest, free: FreeMemory) -> None:
    """Refuse a build whose engine would not fit.

    Raises:
        EmraError: ``memory-forecast``.
    """
    if forecast.needed <= free.bytes:
        return
    ways = smaller_sizes(forecast, manifest, free.bytes)
    remedy = f"Use {' or '.join(ways)}" if ways else "Use a smaller backbone, or a device with more memory"
    raise EmraError(
        "memory-forecast",
        f"The engine needs up to {_gigabytes(forecast.needed)} at batch {forecast.batch}, and"
        f" {_gigabytes(free.bytes)} of {free.kind} memory are free",
        remedy + "; --ignore-memory builds all the same",
    )


def check_load(needed: int, free: FreeMemory, path: str) -> None:
    """Refuse to load an engine that would not fit.

    Args:
        needed: Bytes, from its sidecar.
        free: Free memory.
        path: Path of the engine.

    Raises:
        EmraError: ``memory-forecast``.
    """
    if needed > free.bytes:
        raise EmraError(
            "memory-forecast",
            f"The engine needs {_gigabytes(needed)}, and {_gigabytes(free.bytes)} of {free.kind} memory are free",
            "Close what else uses the memory, or build an engine with a smaller --max-batch or of a smaller --size",
            path,
        )


def _scaled(graph: GraphMemory, attention: float, rest: float) -> GraphMemory:
    """The same graph, with attention matrices and all else except weights scaled by these factors."""
    squares = round(graph.attention * attention)
    others = round((graph.activations - graph.attention) * rest)
    return replace(graph, activations=squares + others, attention=squares, io=round(graph.io * rest))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else _megabytes(size)
