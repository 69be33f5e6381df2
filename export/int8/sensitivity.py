"""How much each linear suffers from INT8: quantised alone, block by block, and all together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from emra_deploy.model_file.manifest import Manifest
from export.compare.runners import OnnxRunner
from export.int8.damage import Answers, Damage, ask, compare_answers
from export.int8.linears import Linear
from export.int8.qdq import insert_qdq


@dataclass(frozen=True)
class Sensitivity:
    """What was measured on some tiles.

    Attributes:
        linears: Damage of each linear quantised alone.
        blocks: Damage of each block quantised alone.
        whole: Damage with every linear quantised.
        tiles: How many tiles it was measured on.
    """

    linears: dict[str, Damage]
    blocks: dict[str, Damage]
    whole: Damage
    tiles: int

    @property
    def additivity(self) -> float:
        """Sum of the linears' divergences over that of all together: 1 if damage adds up, as the search supposes."""
        total = sum(one.divergence for one in self.linears.values())
        return total / self.whole.divergence if self.whole.divergence > 0 else 1.0


class Quantizer:
    """Variants of one model: any of its linears quantised, with ranges that were measured once.

    Args:
        model: FP32.
        manifest: Of the model.
        linears: All candidates.
        ranges: As `export.int8.qdq.insert_qdq` takes them.
        threads: Of one run; None leaves it to ONNX Runtime.
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

    def answer(self, names: Iterable[str], tiles: np.ndarray) -> Answers:
        """What it says about uint8 K x H x W x 3 tiles with these linears quantised."""
        runner = OnnxRunner(self.graph(names), self.manifest, self._threads)
        try:
            return ask(runner, tiles)
        finally:
            runner.close()

    def labels(self, names: Iterable[str], tiles: np.ndarray) -> np.ndarray:
        """Its labels alone, uint8 K x H x W, whatever the number of tiles."""
        runner = OnnxRunner(self.graph(names), self.manifest, self._threads)
        try:
            return np.concatenate([runner.run(tile[np.newaxis])["classes"] for tile in tiles])
        finally:
            runner.close()


def measure_sensitivity(
    quantizer: Quantizer, tiles: np.ndarray, progress: Callable[[], None] | None = None
) -> Sensitivity:
    """Quantise each linear alone, each block of several linears alone, and all.

    Args:
        quantizer: Makes the variants.
        tiles: uint8 K x H x W x 3, real ones.
        progress: Called after each variant.
    """
    reference = quantizer.answer((), tiles)

    def damage(names: Iterable[str]) -> Damage:
        found = compare_answers(reference, quantizer.answer(names, tiles))
        if progress is not None:
            progress()
        return found

    linears = {name: damage([name]) for name in quantizer.linears}
    blocks = {
        block: linears[names[0]] if len(names) == 1 else damage(names)
        for block, names in group_by_block(quantizer.linears.values()).items()
    }
    return Sensitivity(linears, blocks, damage(quantizer.linears), len(tiles))


def group_by_block(linears: Iterable[Linear]) -> dict[str, list[str]]:
    """Names of the linears of each block, in order."""
    blocks: dict[str, list[str]] = {}
    for linear in linears:
        blocks.setdefault(linear.block, []).append(linear.name)
    return blocks


def count_variants(linears: Sequence[Linear]) -> int:
    """How often `measure_sensitivity` calls ``progress``."""
    blocks = group_by_block(linears).values()
    return len(linears) + sum(len(names) > 1 for names in blocks) + 1
