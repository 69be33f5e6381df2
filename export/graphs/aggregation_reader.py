"""Recognition of class attention in an ONNX graph by what its nodes compute, not by their names.

The streamed form is the traced `deployed.StreamedAggregation`: as it is, with the casts of `export.half`, or with
quantised linears around it. Any other graph is refused, because rewriting a partly recognised one would change the
model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from emra_deploy.errors import EmraError
from export.graphs.view import GraphView

END = np.iinfo(np.int64).max
"""End of a Slice that runs to the end of its axis."""


@dataclass(frozen=True)
class AttentionBlock:
    """The tensors of one block's attention that the aggregation reads.

    Attributes:
        packed: Output of the qkv linear, B x T x 3D.
        q: Queries times the scale, B x heads x T x d.
        k: Keys, B x heads x d x T.
        tokens: T.
        heads: Number of heads.
        width: Head width d.
        scale: Factor on the queries.
    """

    packed: str
    q: str
    k: str
    tokens: int
    heads: int
    width: int
    scale: float


@dataclass(frozen=True)
class StreamedForm:
    """The tensors of the streamed form in a graph.

    Attributes:
        blocks: The P blocks, oldest first.
        classes: Number of classes C.
        gca: The result, B x C x N.
    """

    blocks: tuple[AttentionBlock, ...]
    classes: int
    gca: str


def unlike(what: str) -> EmraError:
    """The error of a graph that cannot be rewritten."""
    return EmraError(
        "aggregation-unrecognised",
        f"the graph's class attention is not of the form that can be rewritten: {what}",
        "Export the checkpoint again, with python -m export.to_onnx --aggregation plugin or streamed",
    )


class _Unlike(Exception):
    """A tensor does not match the pattern."""


class AggregationReader:
    """Matches a graph against the form, looking through casts between FP32 and FP16."""

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._constants = _constants(view.model)

    def streamed(self) -> StreamedForm:
        """Find the streamed form.

        Raises:
            EmraError: ``aggregation-unrecognised``, with the part that is missing.
        """
        rows: dict[str, tuple[str, str]] = {}
        spreads: dict[str, tuple[str, str, str]] = {}
        classes: set[int] = set()
        for node in self._view.nodes:
            if node.op_type != "ReduceMean":
                continue
            try:
                mean = self._mean_over_heads(node)
                if mean.op_type == "Softmax":
                    q, k, count = self._class_rows(mean)
                    rows[node.output[0]] = (q, k)
                    classes.add(count)
                else:
                    spreads[node.output[0]] = self._spread(mean)
            except _Unlike:
                continue
        if not rows or not spreads:
            raise unlike(f"{len(rows)} averages of class rows and {len(spreads)} of shared-out rows were found")
        try:
            return self._streamed(rows, spreads, classes)
        except _Unlike as error:
            raise unlike(str(error)) from error

    def blocks(self, packed: Iterable[str]) -> tuple[AttentionBlock, ...]:
        """Find the queries and keys that the blocks' own attention makes of packed qkv tensors."""
        queries, keys = {}, {}
        for node in self._view.nodes:
            try:
                if node.op_type == "Mul":
                    source, *sizes = self._queries(node.output[0])
                    queries[source] = (node.output[0], *sizes)
                elif node.op_type == "Transpose":
                    keys[self._keys(node.output[0])] = node.output[0]
            except _Unlike:
                continue
        found = []
        for name in packed:
            source = self._source(name)
            if source not in queries or source not in keys:
                raise unlike(f"no queries and keys are made of {name}")
            q, tokens, heads, width, scale = queries[source]
            found.append(AttentionBlock(source, q, keys[source], tokens, heads, width, scale))
        return tuple(found)

    @staticmethod
    def shapes_of_heads(model: onnx.ModelProto, packed: str) -> list[list[int]]:
        """The shapes that the parts of a packed tensor are reshaped to: batch, T, heads, head width."""
        constants = _constants(model)
        parts = {
            name
            for node in model.graph.node
            if node.op_type == "Split" and node.input[0] == packed
            for name in node.output
        }
        found = [
            constants[node.input[1]].tolist()
            for node in model.graph.node
            if node.op_type == "Reshape" and node.input[0] in parts and node.input[1] in constants
        ]
        return [shape for shape in found if len(shape) == 4]

    def _streamed(
        self, rows: dict[str, tuple[str, str]], spreads: dict[str, tuple[str, str, str]], classes: set[int]
    ) -> StreamedForm:
        if len(classes) != 1:
            raise _Unlike(f"class rows of {sorted(classes)} classes")
        [count] = classes
        values = {self._source(value) for _, _, value in spreads.values()}
        if len(values) != 1:
            raise _Unlike("the blocks share out different values")
        pairs = [(q, k) for q, k, _ in spreads.values()]
        if sorted(pairs) != sorted(rows.values()):
            raise _Unlike("class rows and shared-out rows are not of the same queries and keys")
        into = self._values_factor(values.pop(), set(rows), count)
        gca, out = self._result(set(spreads), count)
        if not np.isclose(into * out * len(rows) ** 2, 1, rtol=1e-6):
            raise _Unlike(f"averages over {len(rows)} blocks are multiplied by {into:g} and {out:g}")
        blocks = []
        for q, k in pairs:
            packed, tokens, heads, width, scale = self._queries(q)
            if self._keys(k) != packed:
                raise _Unlike(f"{q} and {k} are not of one qkv tensor")
            blocks.append(AttentionBlock(packed, q, k, tokens, heads, width, scale))
        if len({(b.tokens, b.heads, b.width, b.scale) for b in blocks}) != 1:
            raise _Unlike("the blocks differ in tokens, heads, width or scale")
        blocks.sort(key=lambda block: self._view.producer(block.packed) or 0)
        return StreamedForm(tuple(blocks), count, gca)

    def _mean_over_heads(self, node: NodeProto) -> NodeProto:
        if len(node.input) < 2 or self._integers(node.input[1]) != [1] or _attribute(node, "keepdims", 1) != 0:
            raise _Unlike("not over heads")
        return self._made_by(node.input[0], "Softmax", "MatMul")

    def _class_rows(self, softmax: NodeProto) -> tuple[str, str, int]:
        product = self._product(softmax)
        cut = self._made_by(product.input[0], "Slice")
        start, end = self._cut(cut, axis=2)
        if start != 0 or not 0 < end < END:
            raise _Unlike(f"rows {start} to {end}")
        return self._source(cut.input[0]), self._source(product.input[1]), end

    def _spread(self, product: NodeProto) -> tuple[str, str, str]:
        scores = self._product(self._made_by(product.input[0], "Softmax"))
        cut = self._made_by(scores.input[0], "Slice")
        self._cut(cut, axis=2)
        return self._source(cut.input[0]), self._source(scores.input[1]), product.input[1]

    def _product(self, softmax: NodeProto) -> NodeProto:
        # Attention is four-dimensional; to_onnx writes the last axis as -1.
        if _attribute(softmax, "axis", -1) not in (-1, 3):
            raise _Unlike("not over keys")
        return self._made_by(softmax.input[0], "MatMul")

    def _values_factor(self, name: str, rows: set[str], classes: int) -> float:
        """The constant factor between the sum of class rows and the values of the second attention."""
        factor, seen = 1.0, set()
        while True:
            node = self._made_by(name, "Unsqueeze", "Pad", "Transpose", "Div", "Mul", "Slice", "Add", "ReduceMean")
            if node.op_type in ("Add", "ReduceMean"):
                break
            if node.op_type in seen:
                raise _Unlike(f"two {node.op_type} between class rows and what is shared out")
            seen.add(node.op_type)
            if node.op_type == "Slice" and self._cut(node, axis=2) != (classes, END):
                raise _Unlike("class rows are not cut to the patches")
            if node.op_type == "Pad" and self._integers(node.input[1])[:3] != [0, classes, 0]:
                raise _Unlike("class tokens get values that are not zero")
            factor *= self._factor(node)
            name = node.input[0]
        if not {"Unsqueeze", "Pad", "Transpose", "Slice"} <= seen:
            raise _Unlike(f"only {', '.join(sorted(seen))} between class rows and what is shared out")
        if self._terms(name) != rows:
            raise _Unlike("what is shared out is not the sum of all class rows")
        return factor

    def _result(self, spreads: set[str], classes: int) -> tuple[str, float]:
        """The tensor of GCA, and the constant factor between it and the sum of the second attentions."""
        name = next(iter(spreads))
        while (follower := self._only_reader(name)) is not None and follower.op_type in ("Add", "Cast"):
            name = follower.output[0]
        if self._terms(name) != spreads:
            raise _Unlike("the shared-out rows of all blocks are not added up")
        factor, seen = 1.0, set()
        while (follower := self._only_reader(name)) is not None and follower.op_type not in seen:
            if follower.op_type == "Slice" and self._cut(follower, axis=2) != (0, classes):
                break
            if follower.op_type in ("Div", "Mul"):
                # Of P = 1 there may be none, and what comes next is the factor N.
                step = self._factor(follower)
                if len(spreads) == 1 and step != 1:
                    break
                factor *= step
            elif follower.op_type not in ("Slice", "Transpose", "Cast"):
                break
            seen.add(follower.op_type)
            name = follower.output[0]
            if "Transpose" in seen and ({"Div", "Mul"} & seen):
                break
        if "Transpose" not in seen:
            raise _Unlike("the shared-out rows are not turned into maps of classes")
        return name, factor

    def _terms(self, name: str) -> set[str]:
        """The terms of a sum of tensors; the tensor itself if it is not a sum."""
        node = self._made_by(name, "Add", "ReduceMean")
        if node.op_type != "Add":
            return {node.output[0]}
        return self._terms(node.input[0]) | self._terms(node.input[1])

    def _queries(self, name: str) -> tuple[str, int, int, int, float]:
        """The packed tensor, T, heads, head width and scale."""
        node = self._made_by(name, "Mul")
        scale = self._number(node.input[1])
        packed, shape = self._part(node.input[0], 0, [0, 2, 1, 3])
        exact = shape[3] ** -0.5
        # FP16 files hold the scale rounded.
        return packed, shape[1], shape[2], shape[3], exact if abs(scale / exact - 1) < 2**-10 else scale

    def _keys(self, name: str) -> str:
        return self._part(name, 1, [0, 2, 3, 1])[0]

    def _part(self, name: str, place: int, order: list[int]) -> tuple[str, list[int]]:
        turned = self._made_by(name, "Transpose")
        if _attribute(turned, "perm", None) != order:
            raise _Unlike(f"{name} is turned otherwise")
        shaped = self._made_by(turned.input[0], "Reshape")
        shape = self._integers(shaped.input[1])
        split = self._made_by(shaped.input[0], "Split")
        if len(shape) != 4 or _attribute(split, "axis", 0) not in (2, -1) or len(split.output) != 3:
            raise _Unlike(f"{name} is not a third of a packed tensor")
        if self._source(shaped.input[0]) != split.output[place]:
            raise _Unlike(f"{name} is another third of the packed tensor")
        return self._source(split.input[0]), shape

    def _made_by(self, name: str, *operators: str) -> NodeProto:
        index = self._view.producer(self._source(name))
        node = None if index is None else self._view.nodes[index]
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in operators:
            made = "nothing" if node is None else node.op_type
            raise _Unlike(f"{name} is made by {made}, expected {' or '.join(operators)}")
        return node

    def _source(self, name: str) -> str:
        """The tensor before any casts between floating types."""
        while (index := self._view.producer(name)) is not None:
            node = self._view.nodes[index]
            if not self._view.is_float_cast(node):
                break
            name = node.input[0]
        return name

    def _only_reader(self, name: str) -> NodeProto | None:
        readers = self._view.consumers(name)
        return self._view.nodes[readers[0]] if len(readers) == 1 else None

    def _integers(self, name: str) -> list[int]:
        if name not in self._constants:
            raise _Unlike(f"{name} is no constant")
        return [int(value) for value in self._constants[name].reshape(-1)]

    def _number(self, name: str) -> float:
        values = self._constants.get(name)
        if values is None or values.size != 1:
            raise _Unlike(f"{name} is no constant number")
        return float(values.reshape(-1)[0])

    def _factor(self, node: NodeProto) -> float:
        if node.op_type == "Div":
            return 1 / self._number(node.input[1])
        return self._number(node.input[1]) if node.op_type == "Mul" else 1.0

    def _cut(self, node: NodeProto, axis: int) -> tuple[int, int]:
        """Start and end of a Slice along one axis."""
        [start], [end], [along] = (self._integers(name) for name in node.input[1:4])
        if along != axis or (len(node.input) > 4 and self._integers(node.input[4]) != [1]):
            raise _Unlike(f"{node.output[0]} is cut along axis {along}")
        return start, min(end, END)


def _constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Small constants by name, those of Constant nodes among them."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) <= 1}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _attribute(node: NodeProto, name: str, default: object) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
