"""Requested precisions of matrix products in graphs, and the precisions reported by engines."""

from __future__ import annotations

import json

import pytest

from emra_deploy.backends.tensorrt.precision import (
    Layer,
    Realised,
    asked_products,
    check_asked,
    check_realised,
    parse_inspector,
    parse_layer_lines,
    realised,
)
from emra_deploy.errors import EmraError
from tests.emra_deploy.backends.tensorrt.small_models import LINEARS, PRODUCTS, build_graph

onnx = pytest.importorskip("onnx")

# Lines of the list that TensorRT-RTX 1.7.1.116 wrote while it built an INT8 + FP16 EMRA-Ti, with shorter strides.
LINEAR = "Strides: [1], StrideOrder: [0], Datatype: {}, Format: (Linear) Row major linear format"
RECORDED = (
    "Name: __mye666_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0,"
    " Metadata: ",
    "Name: __mye141262+__mye141250+__mye141238_myl0_4, LayerType: gemm,"
    f" Inputs: [ {{ Name: a_myl0, Dimensions: [-1,192], {LINEAR.format('Int8')} }}],"
    f" Constants: [ {{ Name: w_myl0, Dimensions: [1,192,576], {LINEAR.format('Int8')} }},"
    f" {{ Name: alpha_myl0, Dimensions: [1], {LINEAR.format('Float')} }}],"
    f" Outputs: [ {{ Name: o_myl0, Dimensions: [-1,576], {LINEAR.format('Half')} }}],"
    " TacticName: x, StreamId: 0, Metadata: [ONNX Layer: node_MatMul_9][ONNX Layer: val_10_to_float]",
    "Name: node_matmul_myl0_8, LayerType: gemm,"
    f" Inputs: [ {{ Name: q_myl0, Dimensions: [-1,1029,64], {LINEAR.format('Half')} }}], Constants: [],"
    f" Outputs: [ {{ Name: s_myl0, Dimensions: [-1], {LINEAR.format('Half')} }}],"
    " TacticName: y, StreamId: 0, Metadata: [ONNX Layer: node_matmul]",
    "Name: __myl_MoveReplConc_myl0_6, LayerType: kgen,"
    f" Inputs: [ {{ Name: k_myl0, Dimensions: [-1,64], {LINEAR.format('Float')} }}], Constants: [],"
    " Outputs: [], TacticName: z, StreamId: 0, Metadata: [ONNX Layer: node_matmul]",
)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", dict.fromkeys(PRODUCTS, "fp32")),
        ("fp16", dict.fromkeys(PRODUCTS, "fp16")),
        ("int8", {**dict.fromkeys(PRODUCTS, "fp16"), **dict.fromkeys(LINEARS, "int8")}),
    ],
)
def test_what_graphs_ask(precision: str, expected: dict[str, str]) -> None:
    asked = asked_products(build_graph(precision))
    assert asked == expected
    check_asked(asked, precision)
    for other in {"fp32", "fp16", "int8"} - {precision}:
        with pytest.raises(EmraError, match=f"says {other}") as caught:
            check_asked(asked, other)
        assert caught.value.code == "precision-mismatch"


def test_lines_of_the_builder() -> None:
    layers = parse_layer_lines((*RECORDED, "another line", ""))
    assert [layer.kind for layer in layers] == ["shape_call", "gemm", "gemm", "kgen"]
    assert [layer.precision for layer in layers] == [None, "int8", "fp16", "fp32"]
    assert [layer.multiplies for layer in layers] == [False, True, True, False]
    assert layers[1].nodes == ("node_MatMul_9", "val_10_to_float")


def test_the_inspector_of_other_releases() -> None:
    # TensorRT 10.x words types in one field with the format, as trt-engine-explorer reads them.
    half, eight = "Row major linear FP16 format", "Thirty-two wide channel vectorized row major Int8 format"
    text = json.dumps(
        {
            "Layers": [
                "only a name",
                {
                    "Name": "conv",
                    "LayerType": "CaskConvolution",
                    "Inputs": [{"Name": "a", "Format/Datatype": eight}],
                    "Outputs": [{"Name": "b", "Format/Datatype": half}],
                    "Metadata": "[ONNX Layer: patches]",
                },
                {"Name": "mm", "LayerType": "gemm", "Inputs": [{"Format/Datatype": half}], "Metadata": ""},
                {"Name": "mm", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
            ],
            "Bindings": [],
        }
    )
    layers = parse_inspector(text)
    assert [layer.precision for layer in layers] == ["int8", "fp16", None]
    assert layers[0].nodes == ("patches",)
    assert parse_inspector("") == parse_inspector("[]") == parse_inspector('{"Layers": ["a", "b"]}') == []


def layer(precision: str, *nodes: str, kind: str = "gemm") -> Layer:
    names = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
    return Layer("x", kind, (names[precision],), nodes)


def test_products_are_compared_one_by_one() -> None:
    asked = {"a": "int8", "b": "int8", "c": "fp16", "d": "fp32"}
    right = [layer("int8", "a"), layer("int8", "b", "c"), layer("fp16", "c"), layer("fp16", "d"), layer("fp32", "d")]
    assert realised(right, asked) == Realised({"int8": 2, "fp16": 2, "fp32": 1}, ())
    found = realised(
        [layer("int8", "a"), layer("fp16", "b"), layer("fp32", "c"), layer("fp32", "a", kind="kgen")], asked
    )
    assert found.wrong == (("b", "int8", "fp16"), ("c", "fp16", "fp32"))
    with pytest.raises(EmraError, match=r"TensorRT 10\.3 built 2 .* b \(int8 asked, fp16 built\)") as caught:
        check_realised(found, "TensorRT 10.3")
    assert caught.value.code == "precision-not-realised"
    check_realised(realised(right, asked), "TensorRT 10.3")


def test_a_plain_graph_stays_plain() -> None:
    found = realised([layer("fp16", "a"), layer("fp32", "b")], {"a": "fp32", "b": "fp32"})
    assert found.wrong == (("a", "fp32", "fp16"),)
