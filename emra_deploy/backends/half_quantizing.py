"""Detection of graphs that ONNX Runtime before 1.30 computes incorrectly on the CPU, without the onnx package.

Its QuantizeLinear truncates FP16 values instead of rounding them: half of all activations are one level too low, and
the labels of INT8 + FP16 models are meaningless. FP32 values are rounded correctly in all releases.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emra_deploy.backends.external_data import Data, fields, parts
from emra_deploy.errors import EmraError
from emra_deploy.host.extras import install_command

ROUNDS = (1, 30)
"""The first release of ONNX Runtime that rounds."""

_NEWER = "ONNX Runtime 1.30 or later, which needs Python 3.11"

_FLOAT16 = 10
"""Of TensorProto.DataType."""

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_TENSOR, _FUNCTION_NODE = 1, 5, 7
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NUMBER, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 3, 5, 6
_TENSOR_TYPE, _TENSOR_NAME = 2, 8


def check_rounding(model: Path | bytes, library: Any) -> None:
    """Refuse a graph that this ONNX Runtime would compute incorrectly on the CPU.

    Args:
        model: An ONNX file or its contents.
        library: The onnxruntime module.

    Raises:
        EmraError: ``backend-rounding``.
    """
    if truncates(model, library):
        raise EmraError(
            "backend-rounding",
            f"ONNX Runtime {library.__version__} truncates the FP16 values that this graph quantises, so its labels"
            " would mean nothing",
            f"Use OpenVINO ({install_command('openvino')}; --backend openvino), {_NEWER}, or an INT8 file whose"
            " other parts are FP32, as the shipped one is",
            model if isinstance(model, Path) else None,
        )


def truncates(model: Path | bytes, library: Any) -> bool:
    """Whether this ONNX Runtime computes a model incorrectly; damaged parts are ignored."""
    return version_of(library) < ROUNDS and quantizes_half(model)


def version_of(library: Any) -> tuple[int, ...]:
    """Major and minor version of a library."""
    return tuple(map(int, re.findall(r"\d+", library.__version__)[:2]))


def quantizes_half(model: Path | bytes) -> bool:
    """Whether a QuantizeLinear of the graph takes FP16. False for damaged files, which loading reports."""
    try:
        if isinstance(model, bytes):
            return _in_model(model)
        with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _in_model(data)
    except (OSError, ValueError, IndexError, RecursionError):
        return False


def _in_model(data: Data) -> bool:
    for number, low, high in parts(data, 0, len(data)):
        if number == _MODEL_GRAPH and _in_graph(data, low, high, _GRAPH_NODE, frozenset()):
            return True
        if number == _MODEL_FUNCTION and _in_graph(data, low, high, _FUNCTION_NODE, frozenset()):
            return True
    return False


def _in_graph(data: Data, start: int, end: int, nodes: int, outer: frozenset[bytes]) -> bool:
    """Whether a graph or function, or one of its subgraphs, quantises FP16 values.

    The scale has the type of the values that it divides, and is a constant or a Cast of one.

    Args:
        data: The model.
        start: Offset of the graph's first byte.
        end: Offset after its last byte.
        nodes: Number of the field that holds its nodes.
        outer: Names of FP16 values of enclosing graphs.
    """
    content = list(parts(data, start, end))
    half = set(outer)
    if nodes == _GRAPH_NODE:
        half |= {
            _tensor_name(data, low, high)
            for number, low, high in content
            if number == _GRAPH_TENSOR
            if _tensor_type(data, low, high) == _FLOAT16
        }
    for number, low, high in content:
        if number != nodes:
            continue
        node = _Node(data, low, high)
        if node.operator == b"QuantizeLinear":
            if half.intersection(node.inputs[:2]):
                return True
        elif node.gives_half():
            half.update(node.outputs)
        for graph in node.graphs():
            if _in_graph(data, *graph, _GRAPH_NODE, frozenset(half)):
                return True
    return False


class _Node:
    """A NodeProto."""

    def __init__(self, data: Data, start: int, end: int) -> None:
        self._data = data
        self.inputs: list[bytes] = []
        self.outputs: list[bytes] = []
        self.operator = b""
        self._attributes: list[tuple[int, int]] = []
        for number, low, high in parts(data, start, end):
            if number == _NODE_INPUT:
                self.inputs.append(data[low:high])
            elif number == _NODE_OUTPUT:
                self.outputs.append(data[low:high])
            elif number == _NODE_OPERATOR:
                self.operator = data[low:high]
            elif number == _NODE_ATTRIBUTE:
                self._attributes.append((low, high))

    def gives_half(self) -> bool:
        """Whether the node is an FP16 constant or a cast to FP16."""
        if self.operator == b"Cast":
            return (_ATTRIBUTE_NUMBER, _FLOAT16) in {(number, value) for number, value, *_ in self._fields()}
        if self.operator == b"Constant":
            tensors = [(low, high) for number, _, low, high in self._fields() if number == _ATTRIBUTE_TENSOR]
            return any(_tensor_type(self._data, *tensor) == _FLOAT16 for tensor in tensors)
        return False

    def graphs(self) -> Iterator[tuple[int, int]]:
        """Start and end offsets of its subgraphs."""
        for number, _, low, high in self._fields():
            if number == _ATTRIBUTE_GRAPH:
                yield low, high

    def _fields(self) -> Iterator[tuple[int, int | None, int, int]]:
        for low, high in self._attributes:
            yield from fields(self._data, low, high)


def _tensor_type(data: Data, start: int, end: int) -> int | None:
    return next((value for number, value, *_ in fields(data, start, end) if number == _TENSOR_TYPE), None)


def _tensor_name(data: Data, start: int, end: int) -> bytes:
    return next((data[low:high] for number, low, high in parts(data, start, end) if number == _TENSOR_NAME), b"")
