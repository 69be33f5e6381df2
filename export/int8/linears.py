"""The linears of an ONNX graph: nodes that multiply by a constant weight, their names and costs.

Quantisation, sensitivity and the cost model all use these names, which are those of the
PyTorch modules where the exporter kept them (``blocks.3.attn.qkv``), so that tables refer to the model's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from emra_deploy.errors import EmraError

MIN_OUTPUTS = 16
"""Layers of fewer outputs, such as the classifier, cost little and decide the labels: they are not candidates."""

MIN_INPUTS = 16
"""Sums over fewer products, as in a depthwise convolution, are memory-bound: INT8 does not speed them up."""

_PREFIXES = ("model.", "backbone.")


@dataclass(frozen=True)
class Linear:
    """A MatMul or Conv whose second input is a constant.

    Attributes:
        name: Distinct within the graph, such as ``"blocks.0.attn.qkv"``.
        node: Name of the tensor that the node writes; node names may be empty, these are not.
        kind: ``"MatMul"`` or ``"Conv"``.
        source: The tensor that is multiplied.
        weight: Name of the constant: K x N for a MatMul, N x C x kh x kw for a Conv.
        inputs: K, products summed for one output (C * kh * kw of a Conv).
        outputs: N.
        rows: Output rows (tokens or pixels) of one picture, 0 where shape inference finds none.
    """

    name: str
    node: str
    kind: str
    source: str
    weight: str
    inputs: int
    outputs: int
    rows: int

    @property
    def axis(self) -> int:
        """Dimension of the weight that counts outputs."""
        return 1 if self.kind == "MatMul" else 0

    @property
    def block(self) -> str:
        """The part of the model it belongs to: ``"blocks.0"``, ``"hra"``, ``"patch_embed"``."""
        words = self.name.split(".")
        return ".".join(words[:2]) if words[0] == "blocks" else words[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one picture."""
        return self.rows * self.inputs * self.outputs


def constant_tensors(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """The constants of a graph, by the names under which nodes read them.

    `export.graphs.onnx_file.store_halves` keeps FP32 weights as FP16 and a Cast: both names lead to the stored tensor.
    """
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove, in place, the constants that no node reads, and the casts of such constants."""
    graph = model.graph
    constants = constant_tensors(graph)
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    nodes = [node for node in graph.node if node.output[0] in used or node.output[0] not in constants]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def find_linears(model: onnx.ModelProto) -> tuple[Linear, ...]:
    """The linears that are candidates for INT8, in the order in which they run.

    Args:
        model: Whose weights are constants of FP32, or of FP16 with a Cast.

    Raises:
        EmraError: ``quantize-no-linears`` when there is none.
    """
    graph = model.graph
    constants = constant_tensors(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    rows = _rows(model)
    found: list[Linear] = []
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Conv") or node.input[1] not in constants or node.input[0] in constants:
            continue
        weight = constants[node.input[1]]
        dims = list(weight.dims)
        if weight.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        if node.op_type == "MatMul":
            if len(dims) != 2:
                continue
            inputs, outputs = dims
        else:
            inputs, outputs = math.prod(dims[1:]), dims[0]
        grouped = any(attribute.name == "group" and attribute.i != 1 for attribute in node.attribute)
        if grouped or inputs < MIN_INPUTS or outputs < MIN_OUTPUTS:
            continue
        name = _name(node, readers.get(node.output[0], []), constants)
        name = name if name not in taken else node.output[0]
        taken.add(name)
        found.append(
            Linear(
                name,
                node.output[0],
                node.op_type,
                node.input[0],
                node.input[1],
                inputs,
                outputs,
                rows.get(node.output[0], 0),
            )
        )
    if not found:
        raise EmraError(
            "quantize-no-linears",
            "the graph has no MatMul or Conv with a constant FP32 or FP16 weight (a quantised file has none left)",
            "Give the FP32 file that export.to_onnx wrote",
        )
    return tuple(found)


def choose_linears(linears: Iterable[Linear], exclude: Iterable[str]) -> tuple[Linear, ...]:
    """The linears without those excluded by name, by block, or by a name's last words (``mlp.fc2``).

    Raises:
        EmraError: ``quantize-exclude`` for a word that matches nothing, or when nothing is left.
    """
    linears = tuple(linears)
    dropped: set[str] = set()
    for word in exclude:
        matched = {one.name for one in linears if matches(one, word)}
        if not matched:
            raise EmraError(
                "quantize-exclude",
                f"{word!r} names none of the model's linears",
                f"Name blocks or linears: {', '.join(dict.fromkeys(one.block for one in linears))}; such as"
                f" {', '.join(one.name for one in linears[:3])}",
            )
        dropped |= matched
    left = tuple(one for one in linears if one.name not in dropped)
    if not left:
        raise EmraError("quantize-exclude", "every linear is excluded, so nothing is left for INT8", "Exclude fewer")
    return left


def matches(linear: Linear, word: str) -> bool:
    """Whether a word names this linear: its name, the name of a part it belongs to, or the end of its name."""
    return linear.name == word or linear.name.startswith(f"{word}.") or linear.name.endswith(f".{word}")


def _name(node: onnx.NodeProto, readers: list[onnx.NodeProto], constants: dict[str, TensorProto]) -> str:
    candidates = list(node.input[1:])
    # The exporter renames transposed weights; the bias that is added next still says whose it is.
    if len(readers) == 1 and readers[0].op_type == "Add":
        candidates += [name for name in readers[0].input if name in constants]
    for candidate in candidates:
        for ending in (".weight", ".bias"):
            if candidate.endswith(ending):
                name: str = candidate.removesuffix(ending)
                for prefix in _PREFIXES:
                    name = name.removeprefix(prefix)
                return name
    return str(node.name or node.output[0])


def _rows(model: onnx.ModelProto) -> dict[str, int]:
    """Rows of each linear's output for one picture, by the name of the output."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return {}
    kinds = {node.output[0]: node.op_type for node in model.graph.node}
    rows = {}
    for value in inferred.graph.value_info:
        kind = kinds.get(value.name)
        sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
        if kind == "MatMul" and len(sizes) >= 2:
            rows[value.name] = math.prod(sizes[1:-1])
        elif kind == "Conv" and len(sizes) == 4:
            rows[value.name] = sizes[2] * sizes[3]
    return rows
