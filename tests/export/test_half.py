"""FP32 to FP16 in the graph: what is rounded, what is kept, and that both compute the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.half import convert_to_half
from export.half_graph import GraphView

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def graph(nodes, inputs, outputs, constants, opset=20) -> onnx.ModelProto:
    """A checked model; inputs and outputs are name -> (type, shape)."""
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, *entry) for name, entry in inputs.items()],
            [helper.make_tensor_value_info(name, *entry) for name, entry in outputs.items()],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Type of each node's first output, by the node's name."""
    view = GraphView(model)
    return {node.name: view.type(node.output[0]) for node in view.nodes}


@pytest.mark.parametrize("which", ["small_file", pytest.param("explicit_file", marks=pytest.mark.slow)])
def test_what_an_export_keeps(which: str, request: pytest.FixtureRequest) -> None:
    before = onnx.load(request.getfixturevalue(which))
    half, audit = convert_to_half(before)
    onnx.checker.check_model(half, full_check=True)
    view = GraphView(half)
    for name in ("input", "output"):
        assert [(e.name, e.type) for e in getattr(half.graph, name)] == [
            (e.name, e.type) for e in getattr(before.graph, name)
        ]
    counts = Counter(node.op_type for node in half.graph.node)
    assert counts["LayerNormalization"] == 10
    types = {node.name: view.type(node.output[0]) for node in view.nodes}
    for node in view.nodes:
        if node.op_type in ("LayerNormalization", "ReduceMean"):
            assert types[node.name] == FLOAT
        if node.op_type in ("MatMul", "Conv", "Gelu") and which == "small_file":
            assert types[node.name] == HALF, node.name
    # The linears' weights, which are all but a few of the bytes.
    assert all(t.data_type == HALF for t in half.graph.initializer if t.data_type in (FLOAT, HALF) and len(t.dims) == 2)
    assert audit.casts == sum(n.op_type == "Cast" and view.is_float(n.input[0]) and view.is_float(n.output[0])
                              for n in view.nodes)  # fmt: skip
    assert audit.half_bytes > 20 * audit.single_bytes
    assert half.metadata_props == before.metadata_props


def test_no_tensor_is_cast_twice_or_back(small_file: Path) -> None:
    half, _ = convert_to_half(onnx.load(small_file))
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    made = {node.output[0] for node in casts}
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)
    assert not [node.name for node in casts if node.input[0] in made]
    assert not {node.input[0] for node in casts} & {tensor.name for tensor in half.graph.initializer}
