"""Requested and actual precision of each matrix product of an engine.

In a strongly typed network the graph sets the precision, but a compiler may still run a quantised product in another
one. The engine's layers show it: the builder lists them, and the engine's inspector returns them as JSON. Both name the
ONNX nodes that a layer was built from, so each product is compared with the request.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from emra_deploy.errors import EmraError, one_line

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
"""ONNX operators that multiply matrices."""

_TYPES = {1: "fp32", 10: "fp16", 16: "bf16", 3: "int8", 17: "fp8", 18: "fp8", 19: "fp8", 20: "fp8"}
_PASSED_THROUGH = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"})
# Words in the names of layers that multiply: gemm, correlation, runtime_fusion, CaskConvolution, fmha, ...
_MULTIPLYING = re.compile(r"gemm|matmul|matrixmultiply|matrix_multiply|correlation|conv|fusion|mha|attention|einsum")
# Type names in the layer lists of all releases, narrowest first: a product of 8-bit values has 16-bit operands too.
_NAMES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\bfp8", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(half|fp16)\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(float|fp32)\b", re.IGNORECASE)),
)
_FIELD = re.compile(r", (LayerType|Inputs|Constants|Outputs|TacticName|TacticValue|StreamId|Metadata|ParameterType): ")
_TYPE_FIELD = re.compile(r"(?:Format/)?Datatype: ([^,}\]]+)")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: Name in the engine.
        kind: Kind of operation, such as ``"gemm"``.
        types: Types of its inputs and constants, in the engine's wording.
        nodes: Names of the ONNX nodes it was built from.
    """

    name: str
    kind: str
    types: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def precision(self) -> str | None:
        """Type of its narrowest operand, such as ``"int8"``; None if its types are unknown."""
        for precision, pattern in _NAMES:
            if any(pattern.search(text) for text in self.types):
                return precision
        return None

    @property
    def multiplies(self) -> bool:
        """Whether it computes matrix products or convolutions."""
        return _MULTIPLYING.search(self.kind.lower()) is not None


@dataclass(frozen=True)
class Realised:
    """The precisions of an engine's matrix products.

    Attributes:
        counts: Number of multiplying layers by precision.
        wrong: Node, requested precision and actual precision of each product where these differ.
    """

    counts: dict[str, int]
    wrong: tuple[tuple[str, str, str], ...]


def asked_products(model: Any) -> dict[str, str]:
    """The precision that the graph requests for each of its matrix products.

    Args:
        model: ``onnx.ModelProto`` without functions, whose nodes all have names.

    Returns:
        Node name to ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"fp8"`` or ``"int8"``.

    Raises:
        EmraError: ``model-unreadable`` when the types cannot be inferred.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception as error:
        raise EmraError(
            "model-unreadable",
            f"The types of the graph cannot be inferred ({one_line(error)})",
            "Export the model again with python -m export.to_onnx",
        ) from error
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    makers = {name: node for node in graph.node for name in node.output}
    asked = {}
    for node in graph.node:
        if node.op_type in PRODUCTS and len(node.input) >= 2:
            kinds = [_quantised_type(name, makers, types) for name in node.input[:2]]
            narrow = kinds[0] if kinds[0] == kinds[1] else None
            asked[node.name] = narrow or _TYPES.get(types.get(node.input[0], 0), "unknown")
    return asked


def _quantised_type(name: str, makers: Mapping[str, Any], types: Mapping[str, int]) -> str | None:
    """The 8-bit type from which a value was dequantised, or None."""
    while (node := makers.get(name)) is not None and node.op_type in _PASSED_THROUGH:
        name = node.input[0]
    if node is None or node.op_type != "DequantizeLinear":
        return None
    source = types.get(node.input[0], 0)
    if source == 0 and len(node.input) > 2:
        source = types.get(node.input[2], 0)
    return _TYPES.get(source)


def check_asked(asked: Mapping[str, str], precision: str) -> None:
    """Refuse a graph whose precision is not the one in its Manifest.

    Raises:
        EmraError: ``precision-mismatch``.
    """
    counts = Counter(asked.values())
    narrow = counts["fp16"] + counts["bf16"] + counts["int8"] + counts["fp8"]
    right = {
        "fp32": narrow == 0,
        "fp16": counts["fp16"] + counts["bf16"] > counts["fp32"] and counts["int8"] + counts["fp8"] == 0,
        "int8": counts["int8"] + counts["fp8"] > 0,
    }.get(precision, True)
    if not right:
        raise EmraError(
            "precision-mismatch",
            f"The Manifest says {precision}, and the graph asks for {_counted(counts) or 'no product at all'}",
            "Convert the FP32 file again with python -m export.to_fp16 or python -m export.to_int8",
        )


def parse_layer_lines(lines: Iterable[str]) -> list[Layer]:
    """Layers from the list in the builder's verbose log, one per line."""
    layers = []
    for line in lines:
        if not line.startswith("Name: "):
            continue
        parts = _FIELD.split(line[len("Name: ") :])
        fields = dict(zip(parts[1::2], parts[2::2], strict=True))
        operands = fields.get("Inputs", "") + fields.get("Constants", "")
        types = tuple(dict.fromkeys(text.strip() for text in _TYPE_FIELD.findall(operands)))
        nodes = tuple(dict.fromkeys(_ORIGIN.findall(fields.get("Metadata", ""))))
        layers.append(Layer(parts[0], fields.get("LayerType", ""), types, nodes))
    return layers


def parse_inspector(text: str) -> list[Layer]:
    """Layers from the engine inspector's JSON; none if the engine was built without these details."""
    try:
        found = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    layers = []
    for entry in found:
        if not isinstance(entry, dict):
            # Only the name: the engine was built without details.
            continue
        operands = [part for key in ("Inputs", "Constants") for part in entry.get(key, []) if isinstance(part, dict)]
        types = [str(part.get("Datatype") or part.get("Format/Datatype") or "") for part in operands]
        nodes = _ORIGIN.findall(str(entry.get("Metadata", "")))
        name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
        layers.append(Layer(name, kind, tuple(dict.fromkeys(types)), tuple(dict.fromkeys(nodes))))
    return layers


def realised(layers: Iterable[Layer], asked: Mapping[str, str]) -> Realised:
    """Compare an engine's layers with the precisions that the graph requests.

    In a graph with FP32 and FP16 products, an FP32 product may share a layer with a conversion, and its operands then
    do not show its precision. FP32 products are therefore checked only in graphs that request nothing else.
    """
    counts: Counter[str] = Counter()
    wrong: dict[str, tuple[str, str, str]] = {}
    plain = set(asked.values()) <= {"fp32"}
    for layer in layers:
        found = layer.precision
        if not layer.multiplies or found is None:
            continue
        counts[found] += 1
        for node in layer.nodes:
            wanted = asked.get(node)
            if wanted in (None, "unknown", found):
                continue
            if wanted == "fp32" and not plain:
                continue
            if wanted in ("fp16", "bf16") and found in ("int8", "fp8"):
                # A neighbour that was fused into it.
                continue
            wrong[node] = (node, str(wanted), found)
    return Realised(dict(counts), tuple(wrong.values()))


def check_realised(found: Realised, title: str) -> None:
    """Refuse an engine that does not compute in the requested precision.

    Args:
        found: The precisions it computes in.
        title: Name of the library, for the error.

    Raises:
        EmraError: ``precision-not-realised``.
    """
    if found.wrong:
        shown = ", ".join(f"{node} ({wanted} asked, {got} built)" for node, wanted, got in found.wrong[:4])
        more = f" and {len(found.wrong) - 4} more" if len(found.wrong) > 4 else ""
        raise EmraError(
            "precision-not-realised",
            f"{title} built {len(found.wrong)} of the matrix products in another precision than the file asks for:"
            f" {shown}{more}",
            "Use another version of TensorRT, or leave these nodes in their higher precision when you convert the file",
        )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} products in {name}" for name, count in sorted(counts.items()) if count)
