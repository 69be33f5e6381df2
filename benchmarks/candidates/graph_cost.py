"""Cost of an ONNX graph: operations and bytes, counted node by node on inferred shapes, without running it.

Conventions. A multiply-accumulate is two operations, as in torch's counter. Matrix operators (MatMul, Gemm, Conv,
ConvTranspose) are counted separately, by the precision of their operands: INT8 if both come from DequantizeLinear.
Others count the operations of their formula on each element (`_PER_ELEMENT`); a transcendental function is one.
Moving and converting data is free, and so are nodes that depend on constants alone: loading folds them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emra_deploy.backends.tensorrt.graph_memory import sweep
from emra_deploy.errors import EmraError, about
from emra_deploy.host.extras import need

if TYPE_CHECKING:
    import onnx

_OPERATORS = {
    "view": "Reshape Unsqueeze Squeeze Flatten Identity Dropout",
    "move": "Transpose Concat Slice Pad Gather GatherElements GatherND ScatterND Expand Tile Split DepthToSpace "
    "SpaceToDepth Cast CastLike Shape ConstantOfShape Range Where Constant",
    "shrink": "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ArgMax ArgMin GlobalAveragePool GlobalMaxPool TopK",
}
_VIEWS, _MOVES, _SHRINKING = (frozenset(names.split()) for names in _OPERATORS.values())
"""Operators that are views, operators that copy, and operators that count one operation per input element."""

_OPERATIONS = {
    "Add Sub Mul Div Pow Max Min Neg Abs Sqrt Exp Log Erf Tanh Sigmoid Relu Floor Round Equal Less Greater And Or Not "
    "Reciprocal Clip Ceil Sign": 1,
    "LeakyRelu DequantizeLinear BatchNormalization": 2,
    "HardSigmoid QuantizeLinear": 3,
    "HardSwish": 4,
    # x * 0.5 * (1 + erf(x / sqrt(2)))
    "Gelu": 5,
    # Largest, subtract, exp, sum, divide.
    "Softmax LogSoftmax": 5,
    # Mean, subtract, square, sum, scale by the deviation, by the weight, add the bias.
    "LayerNormalization InstanceNormalization GroupNormalization": 7,
    # Bilinear: three interpolations of two products and a sum, less one product; training.model counts the same.
    "Resize": 8,
}
_PER_ELEMENT = {name: count for names, count in _OPERATIONS.items() for name in names.split()}
"""Operations for each element of the output."""

_FLOATS = {1: "fp32", 10: "fp16", 16: "bf16", 11: "fp64"}


@dataclass(frozen=True)
class GraphCost:
    """Cost of one batch.

    Attributes:
        batch: Number of pictures.
        matrix_flops: Operations of matrix operators, by precision of their operands.
        other_flops: Operations of all other operators.
        weights_bytes: Bytes of folded constants that a run reads: a weight stored as FP16 and cast to FP32 counts as
            FP32, a quantised one as stored.
        input_bytes: Bytes of the graph's inputs.
        output_bytes: Bytes of its outputs.
        bytes_unfused: Bytes that all nodes read and write if each goes through memory.
        activations_bytes: Peak of live bytes between nodes, in the order of the file.
        uncounted: Unknown operators, which count nothing, with their number.
    """

    batch: int
    matrix_flops: dict[str, int]
    other_flops: int
    weights_bytes: int
    input_bytes: int
    output_bytes: int
    bytes_unfused: int
    activations_bytes: int
    uncounted: dict[str, int]

    @property
    def flops(self) -> int:
        """All operations."""
        return sum(self.matrix_flops.values()) + self.other_flops

    @property
    def bytes_fused(self) -> int:
        """Bytes that any fusion must move: weights, inputs and outputs once."""
        return self.weights_bytes + self.input_bytes + self.output_bytes

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "flops": self.flops,
            "bytes_fused": self.bytes_fused,
        }


def count_file(path: Path, batch: int = 1) -> GraphCost:
    """Count a file.

    Args:
        path: The ONNX file.
        batch: Number of pictures, if the graph leaves it open.

    Raises:
        EmraError: ``library-missing`` without onnx, ``model-unreadable``, ``graph-shapes``.
    """
    need("bench", "onnx", purpose="counting a graph")
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's errors share no base but Exception.
        raise EmraError(
            "model-unreadable", f"It is not an ONNX model ({str(error)[:200]})", "Export it again", path
        ) from error
    with about(path):
        return count_graph(model, batch)


def count_graph(model: onnx.ModelProto, batch: int = 1) -> GraphCost:
    """Count a graph; see `count_file`."""
    tensors = _Tensors(_with_batch(model, batch))
    counter = _Counter(tensors)
    for node in tensors.graph.node:
        counter.add(node)
    graph = tensors.graph
    return GraphCost(
        batch=batch,
        matrix_flops=counter.matrix,
        other_flops=counter.other,
        weights_bytes=sum(tensors.bytes(name) for name in counter.weights),
        input_bytes=sum(tensors.bytes(value.name) for value in graph.input if value.name not in tensors.constants),
        output_bytes=sum(tensors.bytes(value.name) for value in graph.output),
        bytes_unfused=counter.moved,
        activations_bytes=sweep(graph, fused=False).activations,
        uncounted=counter.uncounted,
    )


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The graph without functions, its open sizes set to ``batch``, all shapes inferred."""
    import onnx
    from onnx import inliner, shape_inference

    fixed = (
        inliner.inline_local_functions(model)
        if model.functions
        else onnx.ModelProto.FromString(model.SerializeToString())
    )
    # The exporter's shapes hold the open batch.
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = batch
    try:
        return shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError, and others of the library.
        raise EmraError(
            "graph-shapes", f"Sizes cannot be inferred ({str(error)[:200]})", "Export it with python -m export.to_onnx"
        ) from error


class _Tensors:
    """Types and sizes of all tensors, and which of them are constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import helper

        self.graph = graph = model.graph
        self._shapes: dict[str, tuple[int, tuple[int, ...]]] = {}
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if all(dimension.HasField("dim_value") for dimension in kind.shape.dim):
                self._shapes[value.name] = (
                    kind.elem_type,
                    tuple(int(dimension.dim_value) for dimension in kind.shape.dim),
                )
        for tensor in graph.initializer:
            self._shapes[tensor.name] = (tensor.data_type, tuple(tensor.dims))
        self.constants = {tensor.name for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if all(name in self.constants or not name for name in node.input):
                self.constants.update(node.output)
        self._itemsize = {
            kind: helper.tensor_dtype_to_np_dtype(kind).itemsize
            for kind in {kind for kind, _ in self._shapes.values()}
            if kind
        }

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise EmraError(
                "graph-shapes",
                f"The size of {name!r} is known only when the graph runs",
                "Export it with python -m export.to_onnx, which writes static sizes",
            )
        return self._shapes[name][1]

    def kind(self, name: str) -> int:
        self.shape(name)
        return self._shapes[name][0]

    def count(self, name: str) -> int:
        return math.prod(self.shape(name))

    def bytes(self, name: str) -> int:
        return self.count(name) * self._itemsize[self.kind(name)]


class _Counter:
    """Sums over nodes."""

    def __init__(self, tensors: _Tensors) -> None:
        self._tensors = tensors
        self.matrix: dict[str, int] = {}
        self.other = 0
        self.moved = 0
        self.weights: set[str] = set()
        self.uncounted: dict[str, int] = {}

    def add(self, node: onnx.NodeProto) -> None:
        tensors = self._tensors
        if all(name in tensors.constants for name in node.output):
            return
        read = [self._stored(name) for name in node.input if name]
        self.weights.update(name for name in read if name in tensors.constants)
        if node.op_type not in _VIEWS:
            self.moved += sum(tensors.bytes(name) for name in (*read, *(name for name in node.output if name)))
        flops = _matrix_flops(node, tensors)
        if flops is not None:
            precision = self._precision(node)
            self.matrix[precision] = self.matrix.get(precision, 0) + flops
            # Gemm's and Conv's bias.
            if node.op_type != "MatMul" and len(node.input) > 2 and node.input[2]:
                self.other += tensors.count(node.output[0])
        elif node.op_type in _PER_ELEMENT:
            self.other += _PER_ELEMENT[node.op_type] * tensors.count(node.output[0])
        elif node.op_type in _SHRINKING:
            self.other += tensors.count(node.input[0])
        elif node.op_type in ("AveragePool", "MaxPool"):
            self.other += tensors.count(node.output[0]) * math.prod(_attribute(node, "kernel_shape", (1,)))
        elif node.op_type not in _VIEWS | _MOVES:
            self.uncounted[node.op_type] = self.uncounted.get(node.op_type, 0) + 1

    def _stored(self, name: str) -> str:
        """The constant that is read: the input of a DequantizeLinear, which kernels absorb."""
        maker = self._tensors.makers.get(name)
        if name in self._tensors.constants and maker is not None and maker.op_type == "DequantizeLinear":
            return str(maker.input[0])
        return name

    def _precision(self, node: onnx.NodeProto) -> str:
        makers = [self._tensors.makers.get(name) for name in node.input[:2]]
        if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
            return "int8"
        return _FLOATS.get(self._tensors.kind(node.input[0]), "other")


def _matrix_flops(node: onnx.NodeProto, tensors: _Tensors) -> int | None:
    """Operations of a matrix operator, None for others."""
    if node.op_type == "MatMul":
        return 2 * tensors.count(node.output[0]) * tensors.shape(node.input[0])[-1]
    if node.op_type == "Gemm":
        first = tensors.shape(node.input[0])
        return 2 * tensors.count(node.output[0]) * first[0 if _attribute(node, "transA", 0) else 1]
    if node.op_type == "Conv":
        # C_out x (C_in / group) x kernel
        return 2 * tensors.count(node.output[0]) * math.prod(tensors.shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        # C_in x (C_out / group) x kernel
        return 2 * tensors.count(node.input[0]) * math.prod(tensors.shape(node.input[1])[1:])
    return None


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
