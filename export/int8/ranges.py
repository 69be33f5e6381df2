"""Activation ranges: magnitudes of the inputs of the linears on the calibration tiles.

Values are counted in histograms as they come, one tile at a time, so memory does not grow with the number of tiles.
A histogram's range is a power of two, and when it doubles, bins merge in pairs: counts are those of one pass over all
values whatever the order of the tiles, so the same tiles give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from emra_deploy.backends import contract
from emra_deploy.model_file.manifest import Manifest
from export.int8.linears import Linear

if TYPE_CHECKING:
    import onnxruntime

METHODS = ("percentile", "entropy", "minmax")
"""The default comes first; docs/decisions/0007 has the comparison."""

PERCENTILE = 99.99
"""Of the magnitudes, in per cent."""

BINS = 8192
"""At least half of them lie below the largest value."""

SMALLEST_LIMIT = 2.0**-60
"""Below it, `BINS` / limit would leave FP32; smaller values share one bin."""

QUANTIZED_BINS = 128
"""Magnitudes that int8 distinguishes."""

ENTROPY_BINS = 2048
"""At most this many, as TensorRT's calibrator had: finer ones leave gaps in the tail, which no threshold explains."""

GROUP_BYTES = 512 << 20
"""Activations fetched in one run of the model."""


class Magnitudes:
    """A histogram of absolute values that grows by doubling.

    Attributes:
        counts: int64, `BINS` bins from 0 to ``limit``.
        limit: Power of two, or 0 before any value but zero.
        largest: Largest value seen.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count the magnitudes of float values of any shape.

        Raises:
            ValueError: For a value that is not finite.
        """
        magnitudes = np.abs(np.asarray(values, np.float32).reshape(-1))
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest):
            raise ValueError("an activation is not a finite number")
        self.largest = max(self.largest, largest)
        if largest > self.limit:
            self._grow(max(SMALLEST_LIMIT, 2.0 ** math.ceil(math.log2(largest))))
        if self.limit:
            # Both powers of two, so the product is exact and so is every edge.
            places = (magnitudes * np.float32(BINS / self.limit)).astype(np.int32)
            np.minimum(places, BINS - 1, out=places)
            self.counts += np.bincount(places, minlength=BINS)
        else:
            self.counts[0] += magnitudes.size

    def _grow(self, limit: float) -> None:
        while self.limit and self.limit < limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.limit *= 2
        self.limit = limit

    def trimmed(self) -> npt.NDArray[Any]:
        """The counts up to the bin of the largest value."""
        if not self.limit:
            return self.counts[:1]
        return self.counts[: min(BINS, int(self.largest * BINS / self.limit) + 1)]

    def range(self, method: str, percentile: float = PERCENTILE) -> float:
        """The magnitude that becomes 127.

        Args:
            method: One of `METHODS`.
            percentile: For ``"percentile"``, above 0 and up to 100.
        """
        if not self.limit or method == "minmax":
            return self.largest
        counts = self.trimmed()
        if method == "percentile":
            reached = np.cumsum(counts)
            # The upper edge of the bin in which the percentile lies: no value below it is clipped.
            place = int(np.searchsorted(reached, percentile / 100 * reached[-1], side="left"))
        elif method == "entropy":
            place = entropy_threshold(counts) - 1
        else:
            raise ValueError(f"method {method!r}, expected one of {METHODS}")
        return min(self.largest, (place + 1) * self.limit / BINS)


def entropy_threshold(counts: npt.NDArray[Any]) -> int:
    """The number of bins to keep so that 128 levels describe the clipped distribution best.

    For every threshold, the clipped histogram P (outliers in its last bin) is compared with Q, its values merged to
    128 levels and spread again over the bins that are not empty; the least Kullback-Leibler divergence from P to Q
    wins. Source: Migacz, 8-bit inference with TensorRT, GTC 2017.

    Args:
        counts: Histogram of magnitudes, from 0 up, the last one not empty.
    """
    step = -(-len(counts) // ENTROPY_BINS)
    padded = np.concatenate([counts, np.zeros(-len(counts) % step, counts.dtype)])
    bins = padded.reshape(-1, step).sum(axis=1).astype(np.float64)
    if len(bins) <= QUANTIZED_BINS:
        return len(counts)
    # Exact zeros are excluded: int8 represents them at any scale.
    bins[0] = bins[1]
    beyond = np.cumsum(bins[::-1])[::-1]
    best, keep = math.inf, len(bins)
    for size in range(QUANTIZED_BINS, len(bins) + 1):
        kept = bins[:size]
        p = kept.copy()
        p[-1] += beyond[size] if size < len(bins) else 0.0
        # The remainder of the division goes to the last level, as in the source.
        level = np.minimum(np.arange(size) // (size // QUANTIZED_BINS), QUANTIZED_BINS - 1)
        filled = kept > 0
        mass = np.bincount(level, weights=kept, minlength=QUANTIZED_BINS)
        share = np.bincount(level, weights=filled, minlength=QUANTIZED_BINS)
        q = np.where(filled, (mass / np.maximum(share, 1))[level], 0.0)
        here = p > 0
        # A bin that clipping alone filled has no counterpart; a very small one keeps the divergence finite.
        q = np.maximum(q, 1e-9 * mass.sum())
        p, q = p[here] / p.sum(), q[here] / q[here].sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best:
            best, keep = divergence, size
    return min(len(counts), keep * step)


def collect_magnitudes(
    model: onnx.ModelProto,
    linears: Sequence[Linear],
    manifest: Manifest,
    tiles: npt.NDArray[np.uint8],
    *,
    progress: Callable[[], None] | None = None,
) -> dict[str, Magnitudes]:
    """Histograms of the inputs of the linears.

    Args:
        model: FP32.
        linears: Linears of this model.
        manifest: Manifest of the model.
        tiles: uint8 K x H x W x 3.
        progress: Called after each tile.

    Returns:
        By name of the tensor.
    """
    sources = list(dict.fromkeys(linear.source for linear in linears))
    session = _fetching(model, sources)
    groups = _groups(linears)
    found = {source: Magnitudes() for source in sources}
    # A fixed batch is filled with copies of its one tile, of which the first answer counts.
    batch = manifest.input_shape[0] or 1
    for tile in tiles:
        image = contract.feed(np.stack([tile] * batch), manifest)
        for group in groups:
            for source, values in zip(group, session.run(group, {"image": image}), strict=True):
                found[source].add(values[:1])
        if progress is not None:
            progress()
    return found


def ranges_of(magnitudes: dict[str, Magnitudes], method: str, percentile: float = PERCENTILE) -> dict[str, float]:
    """The range of every tensor by one method."""
    return {source: one.range(method, percentile) for source, one in magnitudes.items()}


def _fetching(model: onnx.ModelProto, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    # The graph's own outputs stay, or their nodes would be dead and the graph another.
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _groups(linears: Sequence[Linear]) -> list[list[str]]:
    """Tensors that are fetched together: as many as fit `GROUP_BYTES`, at least one."""
    groups: list[list[str]] = [[]]
    used = 0
    for linear in linears:
        if any(linear.source in group for group in groups):
            continue
        size = 4 * linear.rows * linear.inputs
        if groups[-1] and used + size > GROUP_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(linear.source)
        used += size
    return groups
