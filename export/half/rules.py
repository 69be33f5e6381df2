"""Rules that decide which nodes of a graph compute in FP16 and which stay in FP32.

Each rule corrects a measured error. ``docs/decisions/0006-half-precision.md`` has the cost and gain of each.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from emra_deploy.errors import EmraError
from export.graphs.aggregation_forms import MAX_HALF_TOKENS
from export.graphs.view import GraphView

HALF_MAX = float(np.finfo(np.float16).max)
HALF_NORMAL = float(np.finfo(np.float16).tiny)
"""Smallest normal FP16 number, 6.1e-5; below it FP16 loses a digit with every halving."""

HALF_STEP = 2.0**-10
"""Distance of neighbouring FP16 numbers from 1 to 2, twice the largest rounding error."""

MOVES = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
        "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that only move values; they take the type that needs the fewest casts."""

ARITHMETIC = frozenset(
    {
        "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Clip", "Conv", "ConvTranspose", "Div", "Elu",
        "Equal", "Erf", "Exp", "Gelu", "Gemm", "GlobalAveragePool", "Greater", "HardSigmoid", "HardSwish",
        "LayerNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Relu",
        "Resize", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
    }
)  # fmt: skip
"""Operators with an FP16 form, all of whose floating tensors have one type (except those in `ALWAYS_SINGLE`)."""

ALWAYS_SINGLE = frozenset({("Resize", 1), ("Resize", 2)})
"""Inputs, by operator and position, that stay FP32 whatever the node computes in."""

HALF_IN_SINGLE_OUT = frozenset({("emra", "AttentionAggregation")})
"""Operators, by domain and name, that read FP16 and write FP32 sums: see `export.graphs.function_body`."""

ADAPTING = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators that take the type of the floating tensors around them."""

REDUCTIONS = frozenset(
    {"CumSum", "GroupNormalization", "InstanceNormalization", "LogSoftmax", "MeanVarianceNormalization", "Pow"}
    | {f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum", "SumSquare")}
)

NORMALISATION = "normalisation of the picture: bytes times a small factor plus a shift"
LAYER_NORM = "sums of squares pass FP16's 65504"
REDUCTION = "a sum over many values"
AGGREGATION = "class attention: averages of about 1/N, the factor N, and the logits they are multiplied into"
CLASS_ROWS = "softmax whose rows are averaged: 1/T each"
NO_HALF = "operator {op} is not known to have an FP16 form"
LARGE_CONSTANT = "constant {name} holds values beyond FP16's 65504"
SMALL_CONSTANT = "constant {name} is {value:g}, which FP16 cannot represent to its usual digits"
ASKED = "asked for by --keep"


@dataclass(frozen=True)
class Kept:
    """A node that computes in FP32.

    Attributes:
        node: Name of the node.
        operator: Its operator.
        reason: Reason that it stays FP32.
    """

    node: str
    operator: str
    reason: str


def choose(view: GraphView, keep: Sequence[str] = (), layer_norm: str = "single") -> dict[int, str]:
    """The nodes that stay in FP32.

    Args:
        view: The graph.
        keep: Names of nodes, patterns of names (``node_add_*``) or operators (``Conv``) that must stay.
        layer_norm: ``"single"`` for FP32 in and out, ``"stash"`` for FP16 in and out with FP32 inside.

    Returns:
        Index and reason of each kept node that computes; nodes that only move values are left out.

    Raises:
        EmraError: ``half-keep`` for a name that matches no node.
    """
    kept: dict[int, str] = {}

    def put(index: int, reason: str) -> None:
        kept.setdefault(index, reason)

    for index in _asked(view, keep):
        put(index, ASKED)
    for index in _pixels(view):
        put(index, NORMALISATION)
    region, rows = _aggregation(view)
    for index in rows:
        put(index, CLASS_ROWS)
    for index in region:
        if view.nodes[index].op_type not in MOVES:
            put(index, AGGREGATION)
    for index, node in enumerate(view.nodes):
        if not view.is_float_node(index):
            continue
        if node.op_type == "LayerNormalization" and layer_norm == "single":
            put(index, LAYER_NORM)
        elif node.op_type in REDUCTIONS:
            put(index, REDUCTION)
        elif is_mixed(node):
            continue
        elif node.domain not in ("", "ai.onnx") or node.op_type not in ARITHMETIC | MOVES | ADAPTING | {"Cast"}:
            put(index, NO_HALF.format(op=node.op_type))
        elif reason := _bad_constant(view, node):
            put(index, reason)
    return {index: reason for index, reason in kept.items() if view.is_float_node(index)}


def is_mixed(node: onnx.NodeProto) -> bool:
    """Whether a node is of an operator that reads FP16 and writes FP32."""
    return (node.domain, node.op_type) in HALF_IN_SINGLE_OUT


def _asked(view: GraphView, keep: Sequence[str]) -> set[int]:
    found = set()
    for wish in keep:
        matching = {
            index
            for index, node in enumerate(view.nodes)
            if node.op_type == wish or fnmatch.fnmatchcase(node.name, wish)
        }
        if not matching:
            raise EmraError(
                "half-keep",
                f"no node and no operator of the graph is called {wish!r}",
                "Take a name from --audit's list, a pattern such as 'node_Conv*', or an operator such as Conv",
            )
        found |= matching
    return found


def _pixels(view: GraphView) -> set[int]:
    """The cast from bytes, and the constant factors and shifts that follow it."""
    found = set()
    inputs = {entry.name for entry in view.graph.input}
    for index, node in enumerate(view.nodes):
        if node.op_type != "Cast" or node.input[0] not in inputs or not view.is_float(node.output[0]):
            continue
        chain = [index]
        while chain:
            here = chain.pop()
            found.add(here)
            for follower in view.consumers(view.nodes[here].output[0]):
                operands = view.nodes[follower].input
                if view.nodes[follower].op_type in ("Add", "Div", "Mul", "Sub") and any(
                    view.constant(name) is not None for name in operands
                ):
                    chain.append(follower)
    return found


def _aggregation(view: GraphView) -> tuple[set[int], set[int]]:
    """The nodes downstream of an average of attention rows, and the softmaxes that only such an average reads."""
    rows, seeds = set(), []
    for index, node in enumerate(view.nodes):
        if is_mixed(node):
            seeds += view.consumers(node.output[0])
        if node.op_type != "Softmax":
            continue
        followers = view.consumers(node.output[0])
        means = [f for f in followers if view.nodes[f].op_type in ("ReduceMean", "ReduceSum")]
        seeds += means
        # Softmaxes that also weight values are left in FP16: another type would split the fused attention.
        if means and len(means) == len(followers):
            rows.add(index)
    region: set[int] = set()
    while seeds:
        index = seeds.pop()
        if index in region:
            continue
        region.add(index)
        seeds += [f for name in view.nodes[index].output for f in view.consumers(name)]
    return {index for index in region if not _spreads(view, index)}, rows


def _spreads(view: GraphView, index: int) -> bool:
    """Whether a node is the second attention, class weights over the patches: large, with values in FP16's range."""
    node = view.nodes[index]
    if node.op_type != "MatMul":
        return False
    source = view.producer(node.input[0])
    if source is None or view.nodes[source].op_type != "Softmax":
        return False
    keys = view.shape(node.input[0])
    return bool(keys) and isinstance(keys[-1], int) and keys[-1] <= MAX_HALF_TOKENS


def _bad_constant(view: GraphView, node: onnx.NodeProto) -> str | None:
    for place, name in enumerate(node.input):
        if (node.op_type, place) in ALWAYS_SINGLE or node.op_type in ADAPTING:
            continue
        values = view.constant(name)
        if values is None or values.dtype.kind != "f" or not values.size:
            continue
        if not np.abs(values).max() <= HALF_MAX:
            return LARGE_CONSTANT.format(name=name)
        if values.size == 1 and not half_holds(values):
            return SMALL_CONSTANT.format(name=name, value=float(values.reshape(-1)[0]))
    return None


def half_holds(values: npt.NDArray[Any]) -> bool:
    """Whether rounding to FP16 leaves each value its ten binary digits; zero counts as such."""
    rounded = values.astype(np.float16).astype(np.float64)
    return bool(np.all(np.abs(rounded - values) <= HALF_STEP * np.abs(values)))


def moves(view: GraphView, kept: dict[int, str]) -> set[int]:
    """Nodes that only move values between kept nodes; they stay FP32, which saves the casts."""
    open_nodes = {i for i, node in enumerate(view.nodes) if node.op_type in MOVES and view.is_float_node(i)}
    single: set[int] = set()
    while open_nodes:
        group, border = _group(view, open_nodes)
        open_nodes -= group
        deciding = {i for i in border if view.nodes[i].op_type not in ADAPTING and not is_mixed(view.nodes[i])}
        if deciding and all(neighbour in kept for neighbour in deciding):
            single |= group
    return single


def _group(view: GraphView, among: set[int]) -> tuple[set[int], set[int]]:
    """One connected group of value-moving nodes, and the computing nodes around it."""
    start = min(among)
    group, border, queue = {start}, set(), [start]
    while queue:
        here = queue.pop()
        for neighbour in view.float_neighbours(here):
            if neighbour in among and neighbour not in group:
                group.add(neighbour)
                queue.append(neighbour)
            elif neighbour not in among and neighbour not in group:
                border.add(neighbour)
    return group, border


SINGLE, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
