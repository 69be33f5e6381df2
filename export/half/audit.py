"""Audit of the types that a converted graph computes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import TensorProto

from export.graphs.view import GraphView
from export.half.rules import MOVES, Kept


@dataclass(frozen=True)
class DtypeAudit:
    """Counts of FP16 and FP32 nodes, casts and constants in a converted graph.

    Attributes:
        half: Nodes by operator that make FP16 tensors, casts aside.
        single: Nodes by operator that make FP32 tensors, casts aside.
        kept: The nodes that compute in FP32, and why.
        casts: Cast nodes between FP16 and FP32.
        casts_before: The same in the file that was converted; there they restore weights that were stored as FP16.
        half_bytes: Bytes of FP16 constants.
        single_bytes: Bytes of FP32 constants.
        other_bytes: Bytes of all other constants.
        weights_before: Bytes of all constants of the file that was converted.
    """

    half: dict[str, int]
    single: dict[str, int]
    kept: tuple[Kept, ...]
    casts: int
    casts_before: int
    half_bytes: int
    single_bytes: int
    other_bytes: int
    weights_before: int

    @classmethod
    def measure(cls, before: onnx.ModelProto, after: onnx.ModelProto, kept: Sequence[Kept]) -> DtypeAudit:
        """Count both graphs; ``kept`` supplies only the reasons."""
        view = GraphView(after)
        half: Counter[str] = Counter()
        single: Counter[str] = Counter()
        for node in view.nodes:
            kinds = {view.type(name) for name in node.output}
            if view.is_float_cast(node):
                continue
            if TensorProto.FLOAT16 in kinds:
                half[node.op_type] += 1
            elif TensorProto.FLOAT in kinds:
                single[node.op_type] += 1
        sizes = _constant_bytes(after)
        return cls(
            half=dict(sorted(half.items())),
            single=dict(sorted(single.items())),
            kept=tuple(kept),
            casts=sum(map(view.is_float_cast, view.nodes)),
            casts_before=sum(map(GraphView(before).is_float_cast, before.graph.node)),
            half_bytes=sizes[TensorProto.FLOAT16],
            single_bytes=sizes[TensorProto.FLOAT],
            other_bytes=sum(sizes.values()) - sizes[TensorProto.FLOAT16] - sizes[TensorProto.FLOAT],
            weights_before=sum(_constant_bytes(before).values()),
        )

    def reasons(self) -> dict[str, list[Kept]]:
        """The kept nodes grouped by reason, largest group first."""
        grouped: dict[str, list[Kept]] = {}
        for kept in self.kept:
            grouped.setdefault(kept.reason, []).append(kept)
        return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))

    def lines(self) -> list[str]:
        """The audit as text, one fact a line."""
        moved = sum(count for op, count in self.single.items() if op in MOVES)
        found = [
            f"{sum(self.half.values())} nodes compute in FP16, {len(self.kept)} in FP32"
            f" ({moved} more only move FP32 values), {self.casts} casts between them"
        ]
        for reason, group in self.reasons().items():
            kinds = Counter(kept.operator for kept in group)
            words = ", ".join(f"{count} {op}" for op, count in kinds.most_common())
            found.append(f"  FP32: {words}: {reason}")
        found.append(
            f"constants: {(self.half_bytes + self.single_bytes + self.other_bytes) / 1e6:.2f} MB"
            f" ({self.single_bytes / 1e3:.1f} kB of them FP32), before {self.weights_before / 1e6:.2f} MB"
        )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return asdict(self)


def _constant_bytes(model: onnx.ModelProto) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += onnx.numpy_helper.to_array(tensor).nbytes
    return sizes
