"""Conversion of an FP32 graph to FP16, with FP32 where FP16 would lose accuracy.

The result is strongly typed: TensorRT 11, and TensorRT 10 with ``--stronglyTyped``, compute each tensor in the type
that the graph states. `export.half.rules` decides which nodes stay FP32. This module places the casts, at most one each
way for a tensor, and stores constants in the type in which they are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.errors import EmraError
from export.graphs.model_file import opset_of
from export.graphs.view import FLOATS, GraphView
from export.half.audit import DtypeAudit
from export.half.rules import ALWAYS_SINGLE, HALF, SINGLE, Kept, choose, half_holds, is_mixed, moves

MIN_OPSET = 17
"""The first opset with LayerNormalization."""

HALF_SCALE_OPSET = 19
"""The first opset in which QuantizeLinear and DequantizeLinear take FP16 scales."""

LAYER_NORMS = ("single", "stash")


def convert_to_half(
    model: onnx.ModelProto, *, keep: Sequence[str] = (), layer_norm: str = "single"
) -> tuple[onnx.ModelProto, DtypeAudit]:
    """Rewrite a model's graph to FP16, keeping the types of its inputs and outputs.

    The scales of QuantizeLinear and DequantizeLinear become FP16 from opset 19 on, where the tensors around them are
    FP16; before that they stay FP32.

    Args:
        model: An FP32 model whose weights are FP32, or FP16 with a Cast to FP32 (see `onnx_file.store_halves`). It is
            not changed. Its metadata are copied.
        keep: Names of nodes, patterns of names or operators that must stay FP32.
        layer_norm: ``"single"``, FP32 in and out; or ``"stash"``, FP16 in and out with FP32 sums inside, as ONNX's
            ``stash_type`` of 1 asks.

    Returns:
        The rewritten model, and its audit.

    Raises:
        EmraError: ``half-unsupported`` for a graph that is FP16 already, older than opset `MIN_OPSET`, or has
            subgraphs; ``half-keep`` for a name that matches no node; ``graph-types`` when types cannot be inferred.
    """
    if layer_norm not in LAYER_NORMS:
        raise ValueError(f"layer_norm is {layer_norm!r}, expected one of {LAYER_NORMS}")
    view = prepare(model)
    return rewrite(model, view, choose(view, keep, layer_norm))


def prepare(model: onnx.ModelProto) -> GraphView:
    """Check that a graph can be rewritten, and copy it with its constants in FP32.

    Raises:
        EmraError: ``half-unsupported`` and ``graph-types`` as in `convert_to_half`.
    """
    single = onnx.ModelProto()
    single.CopyFrom(model)
    fold_constants(single)
    _check_convertible(single)
    view = GraphView(single)
    _check_single(view)
    return view


def rewrite(model: onnx.ModelProto, view: GraphView, kept: dict[int, str]) -> tuple[onnx.ModelProto, DtypeAudit]:
    """The graph in FP16, except for some nodes.

    Args:
        model: The original model, for the audit.
        view: Result of `prepare` for it.
        kept: Index and reason of each node that computes in FP32, from `export.half.rules.choose`.
    """
    half = _HalfWriter(view, set(kept) | moves(view, kept), opset_of(view.model)).write()
    reasons = [Kept(view.nodes[i].name, view.nodes[i].op_type, reason) for i, reason in sorted(kept.items())]
    return half, DtypeAudit.measure(model, half, reasons)


def fold_constants(model: onnx.ModelProto) -> None:
    """Turn, in place, Constant nodes and casts of constants between FP16 and FP32 into plain constants."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {entry.name for entry in graph.input}
    nodes, folded = [], set()
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        elif node.op_type == "Cast" and node.input[0] in constants and node.input[0] not in inputs:
            source = constants[node.input[0]]
            target = next(a.i for a in node.attribute if a.name == "to")
            if source.data_type not in (HALF, SINGLE) or target not in (HALF, SINGLE):
                nodes.append(node)
                continue
            dtype = np.float16 if target == HALF else np.float32
            tensor = numpy_helper.from_array(numpy_helper.to_array(source).astype(dtype), node.output[0])
            folded.add(source.name)
        else:
            nodes.append(node)
            continue
        constants[tensor.name] = tensor
    read = {name for node in nodes for name in node.input} | {entry.name for entry in graph.output}
    kept = [tensor for name, tensor in constants.items() if name in read or name not in folded]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _check_convertible(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if opset < MIN_OPSET:
        raise _unsupported(f"the graph has opset {opset}, expected {MIN_OPSET} or newer")
    for node in model.graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise _unsupported(f"node {node.name!r} ({node.op_type}) has a graph inside")


def _check_single(view: GraphView) -> None:
    for node in view.nodes:
        for name in (*node.input, *node.output):
            if view.type(name) in FLOATS - {SINGLE}:
                kind = TensorProto.DataType.Name(view.type(name))
                raise _unsupported(f"tensor {name!r} of the graph is {kind} already, expected FLOAT throughout")


def _unsupported(cause: str) -> EmraError:
    return EmraError("half-unsupported", cause, "Give the FP32 file that export.to_onnx wrote")


class _HalfWriter:
    """Writes a new graph, node by node, in the types that were decided."""

    def __init__(self, view: GraphView, single: set[int], opset: int) -> None:
        self._view = view
        self._single = single
        self._half_scales = opset >= HALF_SCALE_OPSET
        self._alias: dict[str, str] = {}  # output of a dropped cast -> its source
        self._have: dict[str, int] = {entry.name: view.type(entry.name) for entry in view.graph.input}
        self._casts: dict[tuple[str, int], str] = {}
        self._constants: dict[tuple[str, int], str] = {}
        self._initialisers: list[onnx.TensorProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._outputs = {entry.name for entry in view.graph.output}

    def write(self) -> onnx.ModelProto:
        for index, node in enumerate(self._view.nodes):
            if not self._view.is_float_node(index):
                self._append(node, [self._plain(name) for name in node.input], {})
            elif node.op_type == "Cast":
                self._write_cast(index, node)
            elif node.op_type == "QuantizeLinear":
                self._write_quantize(node)
            elif node.op_type == "DequantizeLinear":
                self._write_dequantize(node)
            else:
                self._write_float(index, node)
        half = onnx.ModelProto()
        half.CopyFrom(self._view.model)
        graph = half.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._initialisers)
        return half

    def _write_float(self, index: int, node: onnx.NodeProto) -> None:
        kind = SINGLE if index in self._single else HALF
        inputs = []
        for place, name in enumerate(node.input):
            if not name or not self._view.is_float(name):
                inputs.append(self._plain(name))
            else:
                inputs.append(self._read(name, SINGLE if (node.op_type, place) in ALWAYS_SINGLE else kind))
        made = SINGLE if is_mixed(node) else kind
        self._append(node, inputs, {name: made for name in node.output if self._view.is_float(name)})

    def _write_cast(self, index: int, node: onnx.NodeProto) -> None:
        source, made = node.input[0], node.output[0]
        if self._view.is_float_cast(node) and made not in self._outputs:
            self._alias[made] = source
            return
        if self._view.is_float(source):
            # To integers: either type will do.
            self._append(node, [self._at_hand(source)], {})
            return
        kind = SINGLE if index in self._single else HALF
        copy = self._append(node, [self._plain(source)], {made: kind})
        next(a for a in copy.attribute if a.name == "to").i = kind

    def _write_quantize(self, node: onnx.NodeProto) -> None:
        kind = self._have.get(self._source(node.input[0]), SINGLE)
        if not (self._half_scales and self._scale_fits(node.input[1])):
            kind = SINGLE
        inputs = [self._read(node.input[0], kind), self._read(node.input[1], kind), *map(self._plain, node.input[2:])]
        self._append(node, inputs, {})

    def _write_dequantize(self, node: onnx.NodeProto) -> None:
        readers = self._view.consumers(node.output[0])
        wanted = HALF if any(i not in self._single for i in readers) else SINGLE
        if not (self._half_scales and self._scale_fits(node.input[1])):
            wanted = SINGLE
        inputs = [self._plain(node.input[0]), self._read(node.input[1], wanted), *map(self._plain, node.input[2:])]
        self._append(node, inputs, {node.output[0]: wanted})

    def _scale_fits(self, name: str) -> bool:
        values = self._view.constant(name)
        return values is not None and half_holds(values)

    def _append(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: dict[str, int]) -> onnx.NodeProto:
        """Add a copy of a node with these inputs, whose floating outputs have these types."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        self._nodes.append(copy)
        for place, name in enumerate(node.output):
            kind = outputs.get(name)
            if kind is None:
                continue
            if name in self._outputs and kind == HALF:
                # The graph's outputs keep their types and names.
                inner = f"{name}_half"
                copy.output[place] = inner
                self._have[inner], self._alias[name] = HALF, inner
                self._nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}_to_single", to=SINGLE))
                self._casts[inner, SINGLE] = name
            else:
                self._have[name] = kind
        return copy

    def _source(self, name: str) -> str:
        while name in self._alias:
            name = self._alias[name]
        return name

    def _at_hand(self, name: str) -> str:
        source = self._source(name)
        return self._read(source, self._have.get(source, SINGLE))

    def _plain(self, name: str) -> str:
        """The name of a tensor that is not floating-point; its constant is kept."""
        if name and self._view.producer(name) is None:
            self._keep_constant(name)
        return name

    def _keep_constant(self, name: str) -> None:
        if (name, 0) in self._constants:
            return
        tensor = next((t for t in self._view.graph.initializer if t.name == name), None)
        if tensor is not None:
            self._constants[name, 0] = name
            self._initialisers.append(tensor)

    def _read(self, name: str, kind: int) -> str:
        """The name of a floating tensor in this type; casts and constants are added as needed."""
        name = self._source(name)
        if self._view.constant(name) is not None and self._view.producer(name) is None:
            return self._constant(name, kind)
        if self._have[name] == kind:
            return name
        if (name, kind) not in self._casts:
            made = f"{name}_{'half' if kind == HALF else 'single'}"
            self._nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}_cast", to=kind))
            self._casts[name, kind] = made
        return self._casts[name, kind]

    def _constant(self, name: str, kind: int) -> str:
        if (name, kind) not in self._constants:
            values = self._view.constant(name)
            assert values is not None
            other = SINGLE if kind == HALF else HALF
            stored = name if (name, other) not in self._constants else f"{name}_{'half' if kind == HALF else 'single'}"
            dtype = np.float16 if kind == HALF else np.float32
            self._initialisers.append(numpy_helper.from_array(values.astype(dtype), stored))
            self._constants[name, kind] = stored
        return self._constants[name, kind]
