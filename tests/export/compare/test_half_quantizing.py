"""Files of INT8 and FP16 with an ONNX Runtime that truncates: exports compute the same roundings in FP32 instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.compare.runners import OnnxRunner, half_quantizers_fail, open_session
from export.graphs.model_file import read_model
from export.to_int8 import check_arguments
from tests.onnx_models import build_graph, make_manifest

VALUES = np.linspace(-3, 3, 997, dtype=np.float16)


def quantizing() -> onnx.ModelProto:
    """FP16 through QuantizeLinear and back; its result stands in for logits."""
    nodes = [
        helper.make_node("Cast", ["image"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["narrow", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["half"]),
        helper.make_node("Cast", ["half"], ["logits"], to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [len(VALUES)])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [len(VALUES)])
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT16, [], [0.03]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rounded() -> np.ndarray:
    """The same by hand: to the nearest level, halves to even, as ONNX has it."""
    scale = np.float16(0.03).astype(np.float32)
    return np.clip(np.rint(VALUES.astype(np.float32) / scale), -128, 127) * scale


def test_what_this_release_truncates_is_rounded_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    model = quantizing()
    assert half_quantizers_fail(model)
    [found] = open_session(model).run(["logits"], {"image": VALUES.astype(np.float32)})
    # One level of difference where FP16's own rounding of the quotient falls on the other side of a half.
    assert np.abs(found - rounded()).max() <= 0.031
    assert (np.abs(found - rounded()) < 1e-3).mean() > 0.98


def test_to_int8_takes_both_precisions() -> None:
    for precision in ("fp32", "fp16"):
        check_arguments(Path("m.onnx"), "percentile", 99.99, precision)


def test_files_without_fp16_are_run_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    made = build_graph((32, 32))
    helper.set_model_props(made, make_manifest().to_metadata())
    onnx.save_model(made, tmp_path / "m.onnx")
    model, manifest = read_model(tmp_path / "m.onnx")
    assert not half_quantizers_fail(model)
    assert OnnxRunner(model, manifest).name == "onnxruntime"
