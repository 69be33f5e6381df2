"""Conversion of class attention in an ONNX graph between many standard nodes and the one node of TensorRT's plugin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.graphs.aggregation_reader import END, AggregationReader, AttentionBlock, unlike
from export.graphs.function_body import (
    DOMAIN,
    DOMAIN_VERSION,
    OPERATOR,
    add_body,
    aggregation_nodes,
    drop_body,
    mark_for_plugin,
)
from export.graphs.view import GraphView

SINGLE, HALF = TensorProto.FLOAT, TensorProto.FLOAT16

MAX_HALF_TOKENS = 8192
"""Most keys of an attention that is averaged in FP16: with more, weights of 1/N are below 1.2e-4, too close to FP16's
smallest normal number (6.1e-5)."""


def to_plugin_form(model: ModelProto) -> ModelProto:
    """A copy in which one node with its function body replaces the nodes of the streamed form.

    Raises:
        EmraError: ``aggregation-unrecognised``, or ``graph-types`` when types cannot be inferred.
    """
    view = GraphView(model)
    found = AggregationReader(view).streamed()
    packed = [block.packed for block in found.blocks]
    kinds = {view.type(name) for name in packed}
    if not kinds <= {SINGLE, HALF} or len(kinds) > 1:
        raise unlike(f"the qkv tensors {', '.join(packed)} are not all FP32 or all FP16")
    first = found.blocks[0]
    made = found.gca if view.type(found.gca) == SINGLE else f"{found.gca}_single"
    node = helper.make_node(
        OPERATOR,
        packed,
        [made],
        domain=DOMAIN,
        num_heads=first.heads,
        num_class_tokens=found.classes,
        scale=first.scale,
    )
    new = [node]
    if made != found.gca:
        new.append(helper.make_node("Cast", [made], [found.gca], name=f"{found.gca}_cast", to=view.type(found.gca)))
    copy = _replaced(model, {found.gca: new})
    copy.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    mark_for_plugin(copy)
    add_body(copy, first.width)
    return copy


def to_streamed_form(model: ModelProto) -> ModelProto:
    """A copy in which the nodes of the streamed form replace the operator's node.

    Args:
        model: A model with one node of the operator, with or without its function body.

    Raises:
        EmraError: ``aggregation-unrecognised``, or ``graph-types`` when types cannot be inferred.
    """
    whole = with_body(model)
    [node] = aggregation_nodes(whole)
    view = GraphView(whole)
    blocks = AggregationReader(view).blocks(node.input)
    classes = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "num_class_tokens")
    writer = _StreamedWriter(view)
    writer.streamed(blocks, classes, node.output[0])
    drop_body(whole)
    copy = _replaced(whole, {node.output[0]: writer.nodes})
    copy.graph.initializer.extend(writer.constants)
    kept = [entry for entry in copy.opset_import if entry.domain != DOMAIN]
    del copy.opset_import[:]
    copy.opset_import.extend(kept)
    return copy


def with_body(model: ModelProto) -> ModelProto:
    """A copy whose operator has its function body.

    Raises:
        EmraError: ``aggregation-unrecognised`` when there is not one node of the operator, or its sizes are not known.
    """
    nodes = aggregation_nodes(model)
    if len(nodes) != 1:
        raise unlike(f"the graph has {len(nodes)} nodes {DOMAIN}::{OPERATOR}, expected one")
    copy = ModelProto()
    copy.CopyFrom(model)
    if not any((body.domain, body.name) == (DOMAIN, OPERATOR) for body in copy.functions):
        # The head width does not affect the body's result, and is the same for all blocks.
        widths = [shape[-1] for shape in AggregationReader.shapes_of_heads(copy, nodes[0].input[0])]
        if not widths:
            raise unlike(f"{nodes[0].input[0]} is not split into heads anywhere")
        add_body(copy, widths[0])
    return copy


class _StreamedWriter:
    """Writes the nodes of the streamed form, in the types that `export.to_fp16` chooses."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._taken = {name for node in view.nodes for name in (*node.input, *node.output)}
        self._types: dict[str, int] = {}
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def streamed(self, blocks: tuple[AttentionBlock, ...], classes: int, output: str) -> None:
        """Write all nodes; the last makes the tensor ``output``, FP32."""
        zero, one, two = self._integers(0), self._integers(1), self._integers(2)
        count, end = self._integers(classes), self._integers(END)
        total = ""
        for block in blocks:
            rows = self._add("MatMul", self._add("Slice", block.q, zero, count, two, one), block.k)
            rows = self._add("ReduceMean", self._add("Softmax", self._as(rows, SINGLE), axis=-1), one, keepdims=0)
            total = self._add("Add", total, rows) if total else rows
        c2p = self._mean(self._add("Slice", total, count, end, two, one), len(blocks))
        kind = self._type(blocks[0].q) if blocks[0].tokens <= MAX_HALF_TOKENS else SINGLE
        values = self._add("Transpose", self._as(c2p, kind), perm=[0, 2, 1])
        width = max(blocks[0].width, classes)
        values = self._add("Pad", values, self._integers(0, classes, 0, 0, 0, width - classes))
        values = self._add("Unsqueeze", values, one)
        total = ""
        for block in blocks:
            shares = self._add("MatMul", self._add("Slice", block.q, count, end, two, one), block.k)
            shares = self._as(self._add("Softmax", shares, axis=-1), kind)
            spread = self._as(self._add("MatMul", shares, values), SINGLE)
            spread = self._add("ReduceMean", spread, one, keepdims=0)
            total = self._add("Add", total, spread) if total else spread
        maps = self._add("Transpose", self._add("Slice", total, zero, count, two, one), perm=[0, 2, 1])
        self._mean(maps, len(blocks))
        self.nodes[-1].output[0] = output

    def _mean(self, name: str, blocks: int) -> str:
        divisor = self._constant(np.asarray(blocks, np.float32))
        return self._add("Div", name, divisor)

    def _as(self, name: str, kind: int) -> str:
        if self._type(name) == kind:
            return name
        made = self._add("Cast", name, to=kind)
        self._types[made] = kind
        return made

    def _type(self, name: str) -> int:
        return self._types.get(name) or self._view.type(name)

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self._name(operator)
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"node_{name}", **attributes))
        self._types[name] = self._type(inputs[0])
        return name

    def _integers(self, *values: int) -> str:
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, values: npt.NDArray[Any]) -> str:
        name = self._name("constant")
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def _name(self, what: str) -> str:
        number = 0
        while (name := f"aggregation_{what}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _replaced(model: ModelProto, new: dict[str, list[NodeProto]]) -> ModelProto:
    """A copy in which other nodes make some tensors, without nodes and constants that are no longer read."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += new.get(node.output[0], [node])
    used = {entry.name for entry in graph.output}
    kept = []
    for node in reversed(nodes):
        if used & set(node.output):
            kept.append(node)
            used |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = used | {name for node in kept for name in node.output}
    for field in (graph.initializer, graph.value_info):
        left = [entry for entry in field if entry.name in tensors]
        del field[:]
        field.extend(left)
    return copy
