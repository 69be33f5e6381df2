"""Memory of an ONNX graph while it runs: its weights, and the intermediate values that are live.

Nodes run in file order. A value is live from the node that produces it to the last one that reads it. Buffers that
compilers merge are counted once: views (such as Reshape) share the storage of their source, element-wise operators
overwrite an input of the same size without other readers, a value computed from constants is a weight, and Q/DQ pairs
are stored in 8 bits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from emra_deploy.errors import EmraError, one_line

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
_ELEMENTWISE = frozenset(
    {"Abs", "Add", "BatchNormalization", "Cast", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"}
    | {"HardSwish", "LayerNormalization", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "Relu"}
    | {"Sigmoid", "Sin", "Sqrt", "Sub", "Tanh", "Where"}
)
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}
_FOLDED = frozenset(
    {"Add", "Cast", "Concat", "Constant", "Div", "Identity", "Max", "Min", "Mul", "Reshape", "Squeeze", "Sub"}
    | {"Unsqueeze"}
)
"""Operators used to compute sizes; none of them turns small inputs into large outputs."""

_SMALL = 64
_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4}
"""Bits per element by ONNX type number (``TensorProto.DataType``); strings have no fixed size."""


@dataclass(frozen=True)
class GraphMemory:
    """Memory of one run, in bytes.

    Attributes:
        weights: Bytes of constants, in the types that the graph computes in.
        activations: Peak bytes of live intermediate values.
        attention: Bytes of ``activations`` in attention matrices.
        io: Bytes of inputs and outputs.
        peak: Name of the node with the peak.
        unknown: Number of values whose size could not be inferred; they count as zero.
    """

    weights: int
    activations: int
    attention: int
    io: int
    peak: str
    unknown: int

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.weights + self.activations + self.io


def measure_graph(model: Any, batch: int) -> GraphMemory:
    """Count the memory of a model for a batch.

    Args:
        model: ``onnx.ModelProto``; it is not changed. Functions count as their bodies.
        batch: Batch size, used if the graph's is dynamic.

    Raises:
        EmraError: ``model-unreadable`` when shapes cannot be inferred.
    """
    return sweep(_with_batch(model, batch).graph)


def sweep(graph: Any, *, fused: bool = True) -> GraphMemory:
    """Count the memory of a graph with inferred shapes.

    Args:
        graph: ``onnx.GraphProto`` without functions.
        fused: False counts without the compiler's savings, as between kernels that each write a new value: only views
            share storage, and inputs and outputs are live values, too.
    """
    return _Sweep(graph, fused).run()


def _with_batch(model: Any, batch: int) -> Any:
    import onnx
    from onnx import inliner

    try:
        copy = inliner.inline_local_functions(model) if model.functions else onnx.ModelProto()
        if not model.functions:
            copy.CopyFrom(model)
        # Shapes recorded for another batch would be kept. Those of custom operators, such as a plugin's, cannot be
        # inferred, so they stay.
        foreign = {name for node in copy.graph.node if node.domain not in ("", "ai.onnx") for name in node.output}
        noted = [value for value in model.graph.value_info if value.name in foreign]
        del copy.graph.value_info[:]
        copy.graph.value_info.extend(noted)
        for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = batch
        _fold_small(copy.graph)
        return onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception as error:  # The inliner and shape inference raise errors without a common base class.
        raise EmraError(
            "model-unreadable",
            f"The shapes of the graph cannot be inferred ({one_line(error)})",
            "Export the model again with python -m export.to_onnx",
        ) from error


def _fold_small(graph: Any) -> None:
    """Fold values computed from small constants, in place.

    Function bodies compute sizes from attributes, which shape inference does not propagate through every operator.
    """
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    def small(tensor: Any) -> bool:
        return math.prod(tensor.dims) <= _SMALL and tensor.data_type in (1, 6, 7)

    known: dict[str, Any] = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if small(tensor)
    }
    kept = []
    for node in graph.node:
        values = [entry.t for entry in node.attribute if entry.HasField("t")]
        whole = all(not name or name in known for name in node.input) and all(small(tensor) for tensor in values)
        if node.domain or node.op_type not in _FOLDED or not whole or len(node.output) != 1:
            kept.append(node)
            continue
        answer: Any = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
        known[node.output[0]] = answer[0]
        graph.initializer.append(numpy_helper.from_array(answer[0], node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)


class _Sweep:
    """A pass over the nodes that tracks the storage in use at each."""

    def __init__(self, graph: Any, fused: bool) -> None:
        self.graph, self.fused = graph, fused
        self.constants = {tensor.name: _tensor_bytes(tensor) for tensor in graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.sizes: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            bits = _BITS.get(value.type.tensor_type.elem_type)
            known = value.type.tensor_type.HasField("shape") and all(size > 0 for size in shape)
            if bits is not None and known:
                self.shapes[value.name] = tuple(shape)
                self.sizes[value.name] = math.prod(shape) * bits // 8
        self.makers = {name: node.op_type for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.inputs = {value.name for value in graph.input} - set(self.constants)
        self.uses: Counter[str] = Counter()
        self.storage: dict[str, str] = {}
        """The value whose storage a value uses."""
        self.live: dict[str, int] = {}
        self.unknown = 0

    def run(self) -> GraphMemory:
        """Walk over the nodes and return the peak."""
        nodes = self._variable_nodes()
        weights = self._weights(nodes)
        for node in nodes:
            self.uses.update(name for name in node.input if name and name not in self.constants)
        if not self.fused:
            self.uses.update(self.outputs)
            self.storage.update((name, name) for name in self.inputs)
            self.live.update((name, self.sizes.get(name, 0)) for name in self.inputs)
        most, attention, place = sum(self.live.values()), 0, ""
        for node in nodes:
            self._enter(node)
            total = sum(self.live.values())
            if total > most:
                most, place = total, node.name or node.op_type
                attention = sum(size for name, size in self.live.items() if self._is_attention(name))
            for name in node.input:
                self._release(name)
            for name in node.output:
                if name and not self.uses[name]:
                    self.uses[name] += 1
                    self._release(name)
        io = sum(self.sizes.get(name, 0) for name in self.inputs | self.outputs)
        return GraphMemory(weights, most, attention, io, place, self.unknown)

    def _variable_nodes(self) -> list[Any]:
        """The nodes that depend on the input; the outputs of all others are constant."""
        variable = []
        for node in self.graph.node:
            fixed = all(not name or name in self.constants for name in node.input)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    self.constants[node.output[0]] = _tensor_bytes(attribute.t) if attribute.HasField("t") else 8
            elif fixed and node.op_type == "DequantizeLinear":
                # A weight that the engine stores in 8 bits.
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif fixed:
                for name in node.output:
                    self.constants[name] = self.sizes.get(name, 0)
            else:
                variable.append(node)
        return variable

    def _weights(self, nodes: Iterable[Any]) -> int:
        read = {name for node in nodes for name in node.input if name in self.constants}
        return sum(self.constants[name] for name in read)

    def _enter(self, node: Any) -> None:
        for index, name in enumerate(node.output):
            if not name or (self.fused and name in self.outputs):
                # Outputs have memory of their own.
                continue
            source = self._shared(node, name) if index == 0 else None
            if source is not None:
                self.storage[name] = source
                continue
            size = self.sizes.get(name)
            if size is None:
                self.unknown += 1
            self.storage[name] = name
            self.live[name] = size or 0

    def _shared(self, node: Any, output: str) -> str | None:
        """The storage that a node's output can be kept in, of one of its inputs."""
        if node.op_type in _VIEWS or (self.fused and node.op_type == "DequantizeLinear"):
            return self.storage.get(node.input[0])
        if not self.fused or node.op_type not in _ELEMENTWISE:
            return None
        for name in node.input:
            storage = self.storage.get(name)
            if storage is None:
                continue
            # A node may read the same storage twice, without other readers.
            own = sum(self.storage.get(other) == storage for other in node.input)
            if self._readers(storage) == own and self.live.get(storage, 0) >= self.sizes.get(output, 1 << 62):
                return storage
        return None

    def _readers(self, storage: str) -> int:
        return sum(self.uses[name] for name, kept in self.storage.items() if kept == storage and self.uses[name] > 0)

    def _release(self, name: str) -> None:
        if name not in self.storage:
            return
        self.uses[name] -= 1
        storage = self.storage[name]
        if self._readers(storage) == 0:
            self.live.pop(storage, None)

    def _is_attention(self, name: str) -> bool:
        """Whether a value is a tokens-by-tokens matrix per head; class tokens may be missing on one side."""
        shape = self.shapes.get(name, ())
        if len(shape) < 3 or self.makers.get(name) not in ("MatMul", "Softmax", "Einsum"):
            return False
        return min(shape[-2:]) > 64 and max(shape[-2:]) <= 1.1 * min(shape[-2:])


def _tensor_bytes(tensor: Any) -> int:
    return int(math.prod(tensor.dims)) * _BITS.get(tensor.data_type, 0) // 8
