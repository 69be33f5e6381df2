"""Conversion of graphs from FP32 to FP16: rounded tensors, kept tensors, and equal results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.errors import EmraError
from export.graphs.view import GraphView
from export.half.convert import convert_to_half
from export.half.rounding import with_rounding

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


def weights(*shape: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def pixel_chain() -> onnx.ModelProto:
    """Bytes, normalised, a linear, a graph output in FP32."""
    return graph(
        [
            helper.make_node("Cast", ["image"], ["x"], name="cast", to=FLOAT),
            helper.make_node("Mul", ["x", "scale"], ["y"], name="mul"),
            helper.make_node("Add", ["y", "shift"], ["z"], name="add"),
            helper.make_node("MatMul", ["z", "w"], ["out"], name="matmul"),
        ],
        {"image": (TensorProto.UINT8, [2, 8])},
        {"out": (FLOAT, [2, 4])},
        {"scale": np.float32(0.017), "shift": np.float32(-2.1), "w": weights(8, 4)},
    )


def test_pixels_are_normalised_in_fp32_and_outputs_stay_fp32() -> None:
    before = pixel_chain()
    half, audit = convert_to_half(before)
    onnx.checker.check_model(half, full_check=True)
    found = kinds(half)
    assert (found["cast"], found["mul"], found["add"], found["matmul"]) == (FLOAT, FLOAT, FLOAT, HALF)
    assert half.graph.output[0].name == "out"
    assert {kept.node for kept in audit.kept} == {"cast", "mul", "add"}
    assert audit.casts == 2
    image = np.random.default_rng(0).integers(0, 256, (2, 8), dtype=np.uint8)
    [expected], [got] = run(before, image=image), run(half, image=image)
    assert got.dtype == np.float32
    # Two roundings of each operand and one of the result.
    np.testing.assert_allclose(got, expected, atol=4 * 2.0**-11 * np.abs(weights(8, 4)).sum(0).max() * 2.1)


def test_keeping_by_name_pattern_and_operator() -> None:
    for wish, expected in (("matmul", {"matmul"}), ("mat*", {"matmul"}), ("MatMul", {"matmul"})):
        half, audit = convert_to_half(pixel_chain(), keep=[wish])
        assert kinds(half)["matmul"] == FLOAT
        assert {kept.node for kept in audit.kept if "--keep" in kept.reason} == expected
        assert audit.casts == 0
    with pytest.raises(EmraError) as caught:
        convert_to_half(pixel_chain(), keep=["matmul", "Conv"])
    assert caught.value.code == "half-keep"
    assert "'Conv'" in caught.value.cause


def elementwise(operator: str, constant: np.ndarray) -> onnx.ModelProto:
    return graph(
        [helper.make_node(operator, ["x", "c"], ["out"], name="node")],
        {"x": (FLOAT, [4])},
        {"out": (FLOAT, [4])},
        {"c": constant},
    )


@pytest.mark.parametrize(
    ("constant", "kept"),
    [
        (np.float32(-1e4), False),  # the bias of neighbours outside the picture
        (np.float32(1e5), True),
        (np.float32([1, 2, 3, 7e4]), True),
        (np.float32(-np.inf), True),
        (np.float32(1e-9), True),  # an epsilon that would become zero
        (np.float32(0.1), False),
        (np.float32(0.0), False),
        (np.float32([0.1, 1e-9, 0.3, 1]), False),  # a weight that small among others does nothing
    ],
)
def test_constants_that_fp16_cannot_hold_keep_their_node(constant: np.ndarray, kept: bool) -> None:
    half, _ = convert_to_half(elementwise("Add", constant))
    assert kinds(half)["node"] == (FLOAT if kept else HALF)
    if not kept:
        for tensor in half.graph.initializer:
            assert np.isfinite(numpy_helper.to_array(tensor)).all()


def test_operators_without_a_half_form_and_sums_stay() -> None:
    for operator in ("ReduceSum", "ReduceMean", "Sin"):
        model = graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["y"], name="first"),
                helper.make_node(operator, ["y"], ["z"], name="odd"),
                helper.make_node("Mul", ["z", "w2"], ["out"], name="last"),
            ],
            {"x": (FLOAT, [4, 4])},
            {"out": (FLOAT, [4, 4])},
            {"w": weights(4, 4), "w2": weights(4, 4)},
        )
        half, _ = convert_to_half(model)
        found = kinds(half)
        assert (found["first"], found["odd"], found["last"]) == (HALF, FLOAT, HALF)


def quantised(opset: int, scale: float) -> onnx.ModelProto:
    """A linear between Q/DQ pairs, its weight int8 with one scale per output."""
    weight = np.random.default_rng(0).integers(-127, 128, (8, 4)).astype(np.int8)
    return graph(
        [
            helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], name="norm"),
            helper.make_node("QuantizeLinear", ["n", "s", "zero"], ["q"], name="q"),
            helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["d"], name="dq"),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wzero"], ["w"], name="wdq", axis=1),
            helper.make_node("MatMul", ["d", "w"], ["y"], name="matmul"),
            helper.make_node("Add", ["y", "bias"], ["out"], name="add"),
        ],
        {"x": (FLOAT, [2, 8])},
        {"out": (FLOAT, [2, 4])},
        {
            "g": np.ones(8, np.float32),
            "b": np.zeros(8, np.float32),
            "s": np.float32(0.025),
            "zero": np.int8(0),
            "wq": weight,
            "ws": np.full(4, scale, np.float32),
            "wzero": np.zeros(4, np.int8),
            "bias": weights(4),
        },
        opset,
    )


@pytest.mark.parametrize(("opset", "scale"), [(20, 0.01), (20, 1e-7), (17, 0.01)])
def test_quantised_graphs_become_half_around_their_pairs(opset: int, scale: float) -> None:
    before = quantised(opset, scale)
    half, audit = convert_to_half(before)
    onnx.checker.check_model(half, full_check=True)
    view = GraphView(half)
    by_name = {node.name: node for node in half.graph.node}
    takes_half = opset >= 19
    # The quantiser reads LayerNormalization's FP32 as it is; the dequantisers give the linear its FP16.
    assert view.type(by_name["q"].input[1]) == FLOAT
    assert by_name["q"].input[0] == "n"
    assert view.type(by_name["dq"].input[1]) == (HALF if takes_half else FLOAT)
    assert view.type(by_name["wdq"].input[1]) == (HALF if takes_half and scale > 1e-4 else FLOAT)
    assert view.type(by_name["matmul"].output[0]) == HALF
    assert by_name["wdq"].input[0] == "wq"
    assert audit.casts == 1 + (not takes_half) + (not (takes_half and scale > 1e-4))
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    [expected], [got] = run(before, x=x), run(half, x=x)
    np.testing.assert_allclose(got, expected, atol=3e-3 * np.abs(expected).max())


def test_what_cannot_be_converted() -> None:
    half, _ = convert_to_half(pixel_chain())
    loop = graph(
        [
            helper.make_node(
                "If",
                ["flag"],
                ["out"],
                name="if",
                **{
                    branch: helper.make_graph(
                        [helper.make_node("Identity", ["x"], [f"{branch}_out"])],
                        branch,
                        [],
                        [helper.make_tensor_value_info(f"{branch}_out", FLOAT, [4])],
                    )
                    for branch in ("then_branch", "else_branch")
                },
            )
        ],
        {"x": (FLOAT, [4]), "flag": (TensorProto.BOOL, [])},
        {"out": (FLOAT, [4])},
        {},
    )
    old = graph([helper.make_node("Relu", ["x"], ["out"])], {"x": (FLOAT, [4])}, {"out": (FLOAT, [4])}, {}, opset=16)
    foreign = pixel_chain()
    foreign.graph.node.append(helper.make_node("Mystery", ["out"], ["more"], domain="other"))
    foreign.opset_import.append(helper.make_opsetid("other", 1))
    for model, code, word in (
        (half, "half-unsupported", "FLOAT16 already"),
        (loop, "half-unsupported", "'if'"),
        (old, "half-unsupported", "opset 16"),
        (foreign, "graph-types", "Mystery"),
    ):
        with pytest.raises(EmraError) as caught:
            convert_to_half(model)
        assert caught.value.code == code
        assert word in caught.value.cause
    with pytest.raises(ValueError, match="layer_norm"):
        convert_to_half(pixel_chain(), layer_norm="half")


def test_stored_halves_are_used_as_they_are(small_file: Path) -> None:
    before = onnx.load(small_file)
    stored = {t.name: numpy_helper.to_array(t) for t in before.graph.initializer if t.data_type == HALF}
    half, audit = convert_to_half(before)
    after = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert len(stored) > 10
    for name, values in stored.items():
        assert np.array_equal(after[name.removesuffix("_half")], values)
        assert after[name.removesuffix("_half")].dtype == np.float16
    assert audit.casts_before == len(stored)
    assert before == onnx.load(small_file), "the input was changed"


def test_stash_needs_no_casts_around_layer_norms(small_file: Path) -> None:
    _, first = convert_to_half(onnx.load(small_file))
    stash, second = convert_to_half(onnx.load(small_file), layer_norm="stash")
    onnx.checker.check_model(stash, full_check=True)
    norms = [node for node in stash.graph.node if node.op_type == "LayerNormalization"]
    view = GraphView(stash)
    assert all(view.type(node.input[0]) == HALF for node in norms)
    assert all(next(a.i for a in node.attribute if a.name == "stash_type") == FLOAT for node in norms)
    assert second.casts == first.casts - 2 * len(norms)


OPERATORS = ("add", "scale", "linear", "softmax", "norm", "transpose", "reshape", "slice", "mean", "gelu", "join")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.integers(0, 50)), min_size=1, max_size=14))
def test_any_graph_stays_valid_and_computes_the_same(steps: list[tuple[str, int]]) -> None:
    """A random graph on 8 x 8 tensors: valid, its types kept at the border, no needless cast, results near."""
    nodes, tensors = [], ["x"]
    constants = {
        "w": weights(8, 8, seed=1, scale=0.3), "g": np.ones(8, np.float32), "b": weights(8),
        "f": np.float32(0.5), "shape": np.int64([8, 8]), "wide": np.int64([4, 16]), "half": np.int64([4]),
        "zero": np.int64([0]), "axis": np.int64([1]),
    }  # fmt: skip
    for number, (step, pick) in enumerate(steps):
        source, other, made = tensors[pick % len(tensors)], tensors[pick // 2 % len(tensors)], f"t{number}"
        inner = f"{made}_inner"
        one = {
            "add": [("Add", [source, other], {})],
            "scale": [("Mul", [source, "f"], {})],
            "linear": [("MatMul", [source, "w"], {})],
            "softmax": [("Softmax", [source], {"axis": -1})],
            "norm": [("LayerNormalization", [source, "g", "b"], {"epsilon": 1e-3})],
            "transpose": [("Transpose", [source], {"perm": [1, 0]})],
            "reshape": [("Reshape", [source, "wide"], {}), ("Reshape", [inner, "shape"], {})],
            "slice": [("Slice", [source, "zero", "half", "axis"], {}), ("Concat", [inner, inner], {"axis": 1})],
            "mean": [("ReduceMean", [source, "axis"], {"keepdims": 1}), ("Add", [inner, other], {})],
            "gelu": [("Gelu", [source], {})],
            "join": [("Sub", [source, other], {})],
        }[step]
        for place, (operator, inputs, attributes) in enumerate(one):
            out = made if place == len(one) - 1 else inner
            nodes.append(helper.make_node(operator, inputs, [out], name=out, **attributes))
        tensors.append(made)
    before = graph(nodes, {"x": (FLOAT, [8, 8])}, {tensors[-1]: (FLOAT, [8, 8])}, constants)
    half, audit = convert_to_half(before)
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.output == before.graph.output
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    made = {node.output[0] for node in casts}
    assert len({(n.input[0], n.attribute[0].i) for n in casts}) == len(casts) == audit.casts
    assert not [node for node in casts if node.input[0] in made]
    view = GraphView(half)
    for node in casts:
        assert view.type(node.input[0]) != view.type(node.output[0])
    x = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    [expected], [got] = run(before, x=x), run(half, x=x)
    [strict] = run(with_rounding(half), x=x)
    bound = 2.0**-8 * (1 + np.abs(expected).max()) * len(steps)
    np.testing.assert_allclose(got, expected, atol=bound)
    np.testing.assert_allclose(strict, expected, atol=bound)


def test_rounding_is_numpys_and_survives_the_optimiser() -> None:
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul"),
            helper.make_node("Add", ["y", "b"], ["z"], name="add"),
            helper.make_node("Mul", ["z", "x"], ["out"], name="mul"),
        ],
        {"x": (FLOAT, [16, 16])},
        {"out": (FLOAT, [16, 16])},
        {"w": weights(16, 16, scale=1.0), "b": weights(16)},
    )
    half, _ = convert_to_half(model)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) * np.float32(30)
    x[0, 0], x[1, 1] = 6e4, 1e-7  # overflows where it is summed, and is below FP16's normal numbers

    def rounded(values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)

    w, b = rounded(weights(16, 16, scale=1.0)), rounded(weights(16))
    xh = rounded(x)
    expected = rounded(rounded(rounded(xh @ w) + b) * xh)
    [got] = run(with_rounding(half), x=x)
    finite = np.isfinite(expected)
    assert not finite.all()
    assert np.array_equal(np.isfinite(got), finite)
    # The order of the sums is the library's, so a result may land on the neighbouring FP16 number.
    np.testing.assert_allclose(got[finite], expected[finite], rtol=2.0**-9, atol=1e-6)
    assert np.array_equal(rounded(got[finite]), got[finite])
