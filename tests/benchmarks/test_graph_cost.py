"""Counting graphs: by hand, against torch's own counter, and what folding, views and quantisation change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.candidates.graph_cost import count_file, count_graph
from emra_deploy.errors import EmraError
from tests.conftest import FP32_MODEL
from training.model.config import EMRAConfig
from training.model.cost import count_cost


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int | str], out: list[int | str],
          kind: int = TensorProto.FLOAT) -> onnx.ModelProto:  # fmt: skip
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_a_product_a_sum_and_a_view_by_hand() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    constants = {"w": zeros(3, 5), "b": zeros(5), "shape": np.asarray([-1, 1, 5], np.int64)}
    cost = count_graph(graph(nodes, constants, ["batch", 3], ["batch", 1, 5]), batch=7)
    assert cost.matrix_flops == {"fp32": 2 * 7 * 3 * 5}
    assert cost.other_flops == 7 * 5 + 7 * 5
    # The shape of a Reshape is read, too.
    assert cost.weights_bytes == 4 * (15 + 5) + 8 * 3
    assert (cost.input_bytes, cost.output_bytes) == (4 * 21, 4 * 35)
    # MatMul reads x and w and writes a, Add reads a and b, Relu reads d; the Reshape moves nothing.
    assert cost.bytes_unfused == 4 * (21 + 15 + 35) + 4 * (35 + 5 + 35) + 4 * (35 + 35)
    # a and c at the Add; d shares the memory of c.
    assert cost.activations_bytes == 4 * (35 + 35)
    assert cost.flops == cost.other_flops + cost.matrix_flops["fp32"]


def test_what_hangs_on_constants_alone_is_folded() -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    cost = count_graph(graph(nodes, {"half": np.zeros((3, 5), np.float16)}, [2, 3], [2, 5]))
    assert cost.matrix_flops == {"fp32": 60}
    # Read as FP32, as it is after the Cast.
    assert cost.weights_bytes == 60
    assert cost.bytes_unfused == 4 * (6 + 15 + 10)


def test_a_quantised_product_is_int8_and_its_weight_is_read_as_stored() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["levels", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    constants = {"levels": np.zeros((3, 5), np.int8), "s": np.float32(1), "z": np.int8(0)}
    cost = count_graph(graph(nodes, {name: np.asarray(value) for name, value in constants.items()}, [2, 3], [2, 5]))
    assert cost.matrix_flops == {"int8": 60}
    assert cost.weights_bytes == 15 + 4 + 1
    assert cost.other_flops == 6 * 3 + 6 * 2


def test_half_precision_is_distinguished() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {"w": np.zeros((3, 5), np.float16)}, [2, 3], [2, 5], TensorProto.FLOAT16)
    assert count_graph(model).matrix_flops == {"fp16": 60}


def test_functions_are_counted_as_what_is_in_them() -> None:
    body = helper.make_function(
        "emra", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    model = graph([helper.make_node("Twice", ["x"], ["y"], domain="emra")], {}, [4], [4])
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("emra", 1))
    assert count_graph(model).other_flops == 4


def test_an_operator_that_is_not_known_is_named() -> None:
    model = graph([helper.make_node("Selu", ["x"], ["y"])], {}, [4], [4])
    cost = count_graph(model)
    assert cost.uncounted == {"Selu": 1}
    assert cost.flops == 0


def test_sizes_that_only_running_tells_are_an_error(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=1)], {}, [4], [1, "k"]
    )
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(EmraError) as caught:
        count_file(tmp_path / "a.onnx")
    assert caught.value.code == "graph-shapes"
    (tmp_path / "b.onnx").write_bytes(b"\x99" * 40)
    with pytest.raises(EmraError) as caught:
        count_file(tmp_path / "b.onnx")
    assert caught.value.code == "model-unreadable"


class Small(nn.Module):
    """A strided, a grouped and a transposed convolution, a linear layer and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.group = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.linear = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(torch.relu(self.group(self.first(x))))
        q, k, v = self.linear(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        return (q @ k.transpose(1, 2)).softmax(-1) @ v


def test_matrix_operations_are_those_of_torchs_counter() -> None:
    model, image = Small().eval(), torch.zeros(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    program = torch.onnx.export(model, (image,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    cost = count_graph(program.model_proto, batch=2)
    assert sum(cost.matrix_flops.values()) == counter.get_total_flops()
    assert cost.uncounted == {}


def test_the_model_costs_what_its_configuration_says() -> None:
    path = FP32_MODEL
    cost = count_file(path)
    manifest = next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "emra_manifest")
    from emra_deploy.model_file.manifest import Manifest

    read = Manifest.from_json(manifest)
    config = EMRAConfig(
        backbone=read.backbone,
        num_classes=len(read.classes),
        image_size=read.tile,
        hra_block=read.hra_block,
        mca_blocks=read.mca_blocks,
        fusion=read.fusion,
        zoom=read.zoom,
    )
    # torch counts a few element-wise parts of HRA and the fusion that are no matrix products here.
    assert sum(cost.matrix_flops.values()) == pytest.approx(2 * count_cost(config).macs, rel=0.01)
    assert cost.uncounted == {}
    assert count_file(path, batch=3).flops == pytest.approx(3 * cost.flops, rel=1e-3)
    assert count_file(path, batch=3).weights_bytes == cost.weights_bytes
