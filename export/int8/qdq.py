"""Explicit quantisation: Q/DQ nodes around chosen linears, where TensorRT, ONNX Runtime and OpenVINO fuse them.

DESIGN section 4. A linear reads ``DequantizeLinear(QuantizeLinear(x))`` with one scale for the tensor, and its weight
from an int8 constant through a DequantizeLinear with one scale per output. All zero points are 0, which is the only
one TensorRT takes. Biases, and everything besides the linears, keep their precision: TensorRT's parser refuses an INT32
DequantizeLinear, and adding a bias in high precision costs nothing after a fused linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from export.int8.linears import Linear, constant_tensors, drop_unused

LEVELS = 127
"""Largest magnitude of a symmetric int8. -128 is not used: it has no counterpart."""

SMALLEST_SCALE = float(np.finfo(np.float16).tiny)
"""A scale below FP16's smallest normal number would flush to zero in a graph whose high precision is FP16."""


def insert_qdq(model: onnx.ModelProto, linears: Iterable[Linear], ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of the model in which these linears are quantised.

    Args:
        model: FP32; its weights may be stored as FP16 with a Cast. It is not changed.
        linears: Those to quantise, from `export.int8.linears.find_linears` of the same model.
        ranges: For the ``source`` of each linear, the magnitude that becomes 127.

    Raises:
        KeyError: A linear's source has no range.
    """
    chosen = {linear.node: linear for linear in linears}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = constant_tensors(graph)
    made: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        linear = chosen.get(node.output[0])
        if linear is not None:
            # One pair serves every linear that reads the tensor.
            if linear.source not in made:
                made[linear.source] = _quantize_activation(graph, nodes, linear, ranges[linear.source])
            weight = numpy_helper.to_array(constants[linear.weight]).astype(np.float32)
            node.input[0] = made[linear.source]
            node.input[1] = _quantize_weight(graph, nodes, linear, weight)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(copy)
    return copy


def quantize_weight(weight: npt.NDArray[Any], axis: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Symmetric int8 with one scale per index of an axis.

    Args:
        weight: float32 of any shape.
        axis: The dimension that counts outputs.

    Returns:
        int8 of the same shape, -127 to 127, and float32 scales, one per output: weight is about int8 * scale.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scale = np.maximum(np.abs(weight).max(axis=others) / LEVELS, SMALLEST_SCALE).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS)
    return levels.astype(np.int8), scale


def _quantize_activation(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], linear: Linear, magnitude: float) -> str:
    name = f"{linear.name}.input"
    scale, zero = f"{name}.scale", f"{name}.zero"
    step = np.array(max(magnitude / LEVELS, SMALLEST_SCALE), np.float32)
    graph.initializer.append(numpy_helper.from_array(step, scale))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), zero))
    nodes.append(
        helper.make_node("QuantizeLinear", [linear.source, scale, zero], [f"{name}.int8"], name=f"{name}.quantize")
    )
    nodes.append(
        helper.make_node(
            "DequantizeLinear", [f"{name}.int8", scale, zero], [f"{name}.value"], name=f"{name}.dequantize"
        )
    )
    return f"{name}.value"


def _quantize_weight(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], linear: Linear, weight: npt.NDArray[Any]
) -> str:
    name = f"{linear.name}.weight"
    levels, scale = quantize_weight(weight, linear.axis)
    graph.initializer.extend(
        [
            numpy_helper.from_array(levels, f"{name}.int8"),
            numpy_helper.from_array(scale, f"{name}.scale"),
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.zero"),
        ]
    )
    nodes.append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.int8", f"{name}.scale", f"{name}.zero"],
            [f"{name}.value"],
            name=f"{name}.dequantize",
            axis=linear.axis,
        )
    )
    return f"{name}.value"
