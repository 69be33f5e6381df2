"""Q/DQ only where requested, with the same numbers as other quantisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.errors import EmraError
from export.int8.linears import choose_linears, find_linears
from export.int8.qdq import insert_qdq, quantize_weight

FLOATS = st.floats(-1e4, 1e4, width=32)


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=FLOATS), st.integers(0, 1))
@settings(deadline=None, max_examples=60)
def test_weights_as_pytorch_quantises_them(weight: np.ndarray, axis: int) -> None:
    levels, scale = quantize_weight(weight, axis)
    assert levels.dtype == np.int8
    assert levels.min(initial=0) >= -127
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), torch.from_numpy(scale), zeros, axis, -127, 127
    ).numpy()
    found = levels * np.expand_dims(scale, 1 - axis)
    # PyTorch multiplies by the reciprocal, so a tie may round to the other side: one step at most, and rarely.
    step = np.expand_dims(scale, 1 - axis)
    assert (np.abs(found - expected) <= step * 1.001).all()
    assert (np.abs(found - weight) <= step * 0.501).all()


def linear_model(bias: bool = True) -> onnx.ModelProto:
    """image B x 5 x 16 -> MatMul 16 x 32, Add, and a second MatMul 32 x 16 on the sum."""
    random = np.random.default_rng(1)
    first, second = (random.standard_normal(size).astype(np.float32) for size in ((16, 32), (32, 16)))
    nodes = [
        helper.make_node("MatMul", ["image", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "model.backbone.blocks.0.mlp.fc1.bias"], ["a1"]),
        helper.make_node("MatMul", ["a1", "w2"], ["out"], name="second"),
    ]
    constants = [
        numpy_helper.from_array(first, "w1"),
        numpy_helper.from_array(second, "w2"),
        numpy_helper.from_array(random.standard_normal(32).astype(np.float32), "model.backbone.blocks.0.mlp.fc1.bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "linears",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 5, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 5, 16])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@given(st.floats(0.125, 8), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_the_graph_computes_fake_quantisation(magnitude: float, seed: int) -> None:
    model = linear_model()
    linears = find_linears(model)
    quantized = insert_qdq(model, linears[:1], {"image": magnitude})
    image = np.random.default_rng(seed).standard_normal((2, 5, 16)).astype(np.float32)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale = torch.tensor(np.float32(magnitude / 127))
    levels = torch.fake_quantize_per_tensor_affine(
        torch.from_numpy(image), scale, torch.tensor(0, dtype=torch.int32), -128, 127
    ).numpy()
    weights = torch.from_numpy(constants["w1"].copy())
    scales = weights.abs().amax(0) / 127
    zeros = torch.zeros(32, dtype=torch.int32)
    weights = torch.fake_quantize_per_channel_affine(weights, scales, zeros, 1, -127, 127).numpy()
    expected = (levels @ weights + constants["model.backbone.blocks.0.mlp.fc1.bias"]) @ constants["w2"]
    found = onnxruntime.InferenceSession(quantized.SerializeToString()).run(None, {"image": image})[0]
    # A tie that rounds to the other side moves a value by one step of its scale.
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert np.mean(np.abs(found - expected) > 1e-4 * np.abs(expected).max()) < 0.05


def test_only_what_was_chosen_changes() -> None:
    model = linear_model()
    before = model.SerializeToString()
    first, second = find_linears(model)
    assert insert_qdq(model, [], {}).SerializeToString() == before
    quantized = insert_qdq(model, [second], {second.source: 3.0})
    assert model.SerializeToString() == before, "the model that was given is changed"
    onnx.checker.check_model(quantized, full_check=True)
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    assert "w1" in constants
    assert "w2" not in constants, "the FP32 weight is still in the file"
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds == ["MatMul", "Add", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert [first.source, quantized.graph.node[0].input[1]] == ["image", "w1"]
    with pytest.raises(KeyError):
        insert_qdq(model, [first], {})


def test_what_tensorrt_asks_of_the_graph(small_file: Path) -> None:
    model = onnx.load(small_file)
    linears = find_linears(model)
    quantized = insert_qdq(model, linears, {linear.source: 1.0 for linear in linears})
    onnx.checker.check_model(quantized, full_check=True)
    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {node.output[0]: node for node in quantized.graph.node}
    nodes = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in nodes:
        zero = constants[node.input[2]]
        assert zero.data_type == TensorProto.INT8, "only int8 is quantised: no uint8, no INT32 biases"
        assert not numpy_helper.to_array(zero).any()
    for linear in linears:
        node = makers[linear.node]
        weight = makers[node.input[1]]
        assert constants[weight.input[0]].data_type == TensorProto.INT8
        assert len(numpy_helper.to_array(constants[weight.input[1]])) == linear.outputs
        source = makers[node.input[0]]
        assert constants[source.input[1]].dims == [], "activations have one scale"
        assert makers[source.input[0]].op_type == "QuantizeLinear"
    for node in quantized.graph.node:
        if node.op_type == "MatMul" and node.output[0] not in {linear.node for linear in linears}:
            assert all(makers[name].op_type != "DequantizeLinear" for name in node.input if name in makers)
    assert len(quantized.SerializeToString()) < 0.75 * len(model.SerializeToString())


def test_the_linears_of_a_model(small_file: Path, explicit_file: Path) -> None:
    linears = find_linears(onnx.load(small_file))
    names = [linear.name for linear in linears]
    per_block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    blocks = [f"blocks.{block}.{part}" for block in range(4) for part in per_block]
    assert names == ["patch_embed.proj", *blocks, "hra.pointwise", "hra.affinity"]
    assert names == [linear.name for linear in find_linears(onnx.load(explicit_file))]
    # 64 x 64 pixels, enlarged twice: 8 x 8 patches and 5 class tokens; blocks of width 64.
    sizes = {linear.name: (linear.rows, linear.inputs, linear.outputs) for linear in linears}
    assert sizes["patch_embed.proj"] == (64, 768, 64)
    assert sizes["blocks.2.attn.qkv"] == (69, 64, 192)
    assert sizes["blocks.2.mlp.fc2"] == (69, 256, 64)
    assert sizes["hra.affinity"] == (64, 64, 144)
    assert linears[1].macs == 69 * 64 * 192
    assert {linear.block for linear in linears} == {"patch_embed", *(f"blocks.{b}" for b in range(4)), "hra"}


def test_leaving_linears_out(small_file: Path) -> None:
    linears = find_linears(onnx.load(small_file))

    def left(*words: str) -> set[str]:
        return {linear.name for linear in choose_linears(linears, words)}

    everything = {linear.name for linear in linears}
    assert left() == everything
    assert everything - left("blocks.1") == {name for name in everything if name.startswith("blocks.1.")}
    assert everything - left("mlp.fc2", "hra.affinity") == {
        name for name in everything if name.endswith("mlp.fc2") or name == "hra.affinity"
    }
    for words in (["blocks.7"], ["fc"], ["blocks", "patch_embed", "hra"]):
        with pytest.raises(EmraError) as caught:
            choose_linears(linears, words)
        assert caught.value.code == "quantize-exclude"


def test_a_graph_without_linears() -> None:
    from tests.onnx_models import build_graph

    with pytest.raises(EmraError) as caught:
        find_linears(build_graph((32, 32)))
    assert caught.value.code == "quantize-no-linears"
