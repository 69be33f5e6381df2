"""Sensitivity of the linears to INT8: each quantised alone, each block, and all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from emra_deploy.backends.base import Backend
from emra_deploy.errors import EmraError
from emra_deploy.evaluation import LabelledTile
from emra_deploy.model_file.manifest import Manifest
from export.compare.cached import Cached
from export.compare.comparison import compare
from export.compare.report import Report
from export.compare.runners import OnnxRunner
from export.int8.linears import Linear
from export.int8.qdq import insert_qdq


@dataclass(frozen=True)
class Degradation:
    """Distance of a quantised model from the FP32 model, without ground truth.

    Attributes:
        divergence: Mean Kullback-Leibler divergence of the class probabilities; see `export.compare.report.LogitError`.
        logit_error: Root mean square of the logits' change over that of the logits.
        agreement: Share of pixels with the same label.
    """

    divergence: float
    logit_error: float
    agreement: float

    @classmethod
    def of(cls, report: Report) -> Degradation:
        """The figures of a comparison with the FP32 model.

        Raises:
            EmraError: ``quantize-not-finite`` when there are logits that are not finite numbers.
        """
        logits = report.logits
        if logits is None or not math.isfinite(logits.max):
            raise EmraError(
                "quantize-not-finite",
                "the quantised graph gives logits that are not finite numbers",
                "Calibrate with other tiles, or leave linears out with --exclude",
            )
        return cls(logits.divergence, logits.rms, report.agreement)


@dataclass(frozen=True)
class Sensitivity:
    """Degradation measured on some tiles.

    Attributes:
        linears: With one linear quantised, by its name.
        blocks: With one block quantised, by its name.
        whole: With every linear quantised.
        tiles: Number of tiles it was measured on.
    """

    linears: dict[str, Degradation]
    blocks: dict[str, Degradation]
    whole: Degradation
    tiles: int

    @property
    def additivity(self) -> float:
        """Sum of the linears' divergences over that of all together: 1 if they add up, as the search supposes."""
        total = sum(one.divergence for one in self.linears.values())
        return total / self.whole.divergence if self.whole.divergence > 0 else 1.0


class Quantizer:
    """Variants of one model: any of its linears quantised, with ranges that were measured once.

    Args:
        model: The FP32 model.
        manifest: Manifest of the model.
        linears: All candidates.
        ranges: For the source of each linear, the magnitude that becomes 127.
        threads: Threads of one run; None leaves the choice to ONNX Runtime.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        manifest: Manifest,
        linears: Sequence[Linear],
        ranges: Mapping[str, float],
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.manifest = manifest
        self.linears = {linear.name: linear for linear in linears}
        self.ranges = dict(ranges)
        self._threads = threads

    def graph(self, names: Iterable[str]) -> onnx.ModelProto:
        """The model with these linears quantised."""
        return insert_qdq(self.model, [self.linears[name] for name in names], self.ranges)

    def open(self, names: Iterable[str]) -> OnnxRunner:
        """The model with these linears quantised, in ONNX Runtime."""
        return OnnxRunner(self.graph(names), self.manifest, self._threads)

    def compare(
        self,
        reference: Backend,
        names: Iterable[str],
        pictures: npt.NDArray[np.uint8] | Iterable[LabelledTile],
    ) -> Report:
        """Compare the model with these linears quantised with a reference.

        Args:
            reference: The FP32 model.
            names: Names of the linears.
            pictures: uint8 K x H x W x 3, or labelled tiles.
        """
        runner = self.open(names)
        try:
            return compare(reference, runner, pictures)
        finally:
            runner.close()


def measure_sensitivity(
    quantizer: Quantizer, tiles: npt.NDArray[np.uint8], progress: Callable[[], None] | None = None
) -> Sensitivity:
    """Quantise each linear alone, each block of several linears alone, and all.

    Args:
        quantizer: Makes the variants.
        tiles: uint8 K x H x W x 3, real ones.
        progress: Called after each variant.
    """
    reference = Cached(quantizer.open(()))

    def degradation(names: Iterable[str]) -> Degradation:
        found = Degradation.of(quantizer.compare(reference, names, tiles))
        if progress is not None:
            progress()
        return found

    linears = {name: degradation([name]) for name in quantizer.linears}
    blocks = {
        block: linears[names[0]] if len(names) == 1 else degradation(names)
        for block, names in group_by_block(quantizer.linears.values()).items()
    }
    return Sensitivity(linears, blocks, degradation(quantizer.linears), len(tiles))


def group_by_block(linears: Iterable[Linear]) -> dict[str, list[str]]:
    """Names of the linears of each block, in order."""
    blocks: dict[str, list[str]] = {}
    for linear in linears:
        blocks.setdefault(linear.block, []).append(linear.name)
    return blocks


def count_variants(linears: Sequence[Linear]) -> int:
    """Number of variants that `measure_sensitivity` measures."""
    blocks = group_by_block(linears).values()
    return len(linears) + sum(len(names) > 1 for names in blocks) + 1
