"""A graph with look-ups of its types, producers and consumers, for rewriting it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from emra_deploy.errors import EmraError, one_line

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


class GraphView:
    """Look-ups over a model whose types are inferred once.

    Args:
        model: A model whose every tensor has a type that ONNX can infer. It is not changed.

    Raises:
        EmraError: ``graph-types`` when inference fails or leaves a tensor without a type.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        except onnx.shape_inference.InferenceError as error:
            raise EmraError(
                "graph-types",
                f"the types of the graph cannot be inferred ({one_line(error, 200)})",
                "Export the model again with python -m export.to_onnx",
            ) from error
        self._types: dict[str, int] = {}
        self._shapes: dict[str, list[int | str | None]] = {}
        for entry in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
            self._types[entry.name] = entry.type.tensor_type.elem_type
            self._shapes[entry.name] = [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
                for d in entry.type.tensor_type.shape.dim
            ]
        self._constants: dict[str, npt.NDArray[Any]] = {}
        for tensor in model.graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._shapes[tensor.name] = list(tensor.dims)
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
                self._constants[tensor.name] = numpy_helper.to_array(tensor)
        self._producers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._consumers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(index)
        for node in self.nodes:
            for name in node.output:
                if name and not self._types.get(name):
                    raise EmraError(
                        "graph-types",
                        f"the type of tensor {name!r}, made by {node.op_type} {node.name!r}, is not known",
                        "Export the model again with python -m export.to_onnx, or inline its functions",
                    )

    def producer(self, name: str) -> int | None:
        """Index of the node that makes a tensor; None for inputs and constants."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[int]:
        """Indices of the nodes that read a tensor."""
        return self._consumers.get(name, [])

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The value of a floating initialiser, or None."""
        return self._constants.get(name)

    def shape(self, name: str) -> list[int | str | None]:
        """Sizes of a tensor; names or None for those that are open."""
        return self._shapes.get(name, [])

    def type(self, name: str) -> int:
        """``TensorProto`` type of a tensor, 0 when there is no such tensor."""
        return self._types.get(name, 0)

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers."""
        return self.type(name) in FLOATS

    def is_float_cast(self, node: onnx.NodeProto) -> bool:
        """Whether a node only converts between floating types."""
        return node.op_type == "Cast" and self.is_float(node.input[0]) and self.is_float(node.output[0])

    def is_float_node(self, index: int) -> bool:
        """Whether a node reads or writes floating-point numbers."""
        node = self.nodes[index]
        return any(self.is_float(name) for name in (*node.input, *node.output))

    def float_neighbours(self, index: int) -> set[int]:
        """Nodes that share a floating tensor with this one, constants aside."""
        node = self.nodes[index]
        found: set[int] = set()
        for name in node.input:
            producer = self.producer(name)
            if producer is not None and self.is_float(name):
                found.add(producer)
        for name in node.output:
            if self.is_float(name):
                found.update(self.consumers(name))
        return found
