"""Graphs that quantise FP16, which ONNX Runtime before 1.30 truncates: found, refused, and run by another backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emra_deploy.backends import choose
from emra_deploy.backends.half_quantizing import ROUNDS, quantizes_half, version_of
from emra_deploy.backends.opening import explain, open_auto, open_backend
from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from tests.onnx_models import build_graph, make_manifest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

PAIR = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
]
ZERO = numpy_helper.from_array(np.int8(0), "z")


def graph_of(nodes: list[Any], weights: list[Any], kind: int = TensorProto.FLOAT16) -> Any:
    x, y = (helper.make_tensor_value_info(name, kind, [8]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [ZERO, *weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def scale(kind: type) -> Any:
    return numpy_helper.from_array(np.asarray(0.03, kind), "s")


def test_a_scale_among_the_weights() -> None:
    assert quantizes_half(graph_of(PAIR, [scale(np.float16)]).SerializeToString())
    assert not quantizes_half(graph_of(PAIR, [scale(np.float32)], TensorProto.FLOAT).SerializeToString())


@pytest.mark.parametrize(("kind", "expected"), [(np.float16, True), (np.float32, False)])
def test_a_scale_that_a_node_gives(kind: type, expected: bool) -> None:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constant = helper.make_node("Constant", [], ["s"], value=scale(kind))
    assert quantizes_half(graph_of([constant, *PAIR], [], to).SerializeToString()) == expected
    wide = numpy_helper.from_array(np.float64(0.03), "wide")
    cast = helper.make_node("Cast", ["wide"], ["s"], to=to)
    assert quantizes_half(graph_of([cast, *PAIR], [wide], to).SerializeToString()) == expected


def test_an_input_that_is_cast() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)]
    nodes += [helper.make_node("QuantizeLinear", ["half", "given", "z"], ["q"])]
    assert quantizes_half(graph_of(nodes, [], TensorProto.FLOAT).SerializeToString())


def test_graphs_within_graphs_and_functions() -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, [8])
    inner = helper.make_graph(PAIR, "inner", [], [y])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    assert quantizes_half(graph_of([branch], [scale(np.float16)]).SerializeToString())
    assert not quantizes_half(graph_of([branch], [scale(np.float32)]).SerializeToString())
    model = graph_of([helper.make_node("F", ["x"], ["y"], domain="d")], [])
    constants = [
        helper.make_node("Constant", [], ["s"], value=scale(np.float16)),
        helper.make_node("Constant", [], ["z"], value=ZERO),
    ]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("d", "F", ["x"], ["y"], [*constants, *PAIR], opsets))
    assert quantizes_half(model.SerializeToString())


def test_damaged_files_are_left_to_who_loads_them(tmp_path: Path) -> None:
    whole = graph_of(PAIR, [scale(np.float16)]).SerializeToString()
    for damaged in (b"", b"\xff" * 40, whole[: len(whole) // 2]):
        assert not quantizes_half(damaged)
    assert not quantizes_half(tmp_path / "none.onnx")


def test_releases_before_the_fix_have_the_fault() -> None:
    """Behaviour of the installable releases; `ROUNDS` must agree with it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph_of(PAIR, [scale(np.float16)]).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = np.linspace(-1, 1, 8).astype(np.float16)
    [found] = session.run(None, {"x": values})
    right = bool(np.abs(found.astype(np.float32) - values).max() < 0.016)
    assert right == (version_of(onnxruntime) >= ROUNDS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that quantises FP16 on its way."""
    made = build_graph((32, 32))
    made.opset_import[0].version = 20
    nodes = [
        helper.make_node("Cast", ["bias"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "s", "z"], ["levels"]),
    ]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend([scale(np.float16), ZERO])
    helper.set_model_props(made, make_manifest().to_metadata())
    path = tmp_path / "m.onnx"
    onnx.save_model(made, path)
    return path


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")


@pytest.mark.usefixtures("old")
def test_an_old_release_refuses_and_auto_takes_openvino(model: Path) -> None:
    with pytest.raises(EmraError, match=r"1\.23\.2 truncates") as caught:
        open_backend(model, backend="onnxruntime")
    assert caught.value.code == "backend-rounding"
    assert "--backend openvino" in caught.value.remedy
    assert caught.value.path == str(model)
    pytest.importorskip("openvino")
    for tiles in (1, None):
        backend, choice = open_auto(model, tiles=tiles)
        backend.close()
        assert choice.name == "openvino"
        assert ("onnxruntime", "this release truncates there") in choice.passed_over


@pytest.mark.usefixtures("old")
def test_without_another_backend_it_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "_importable", lambda name: name == "onnxruntime")
    with pytest.raises(EmraError) as caught:
        open_auto(model)
    assert caught.value.code == "backend-rounding"
    assert "refuses it" in explain(model)
    # The Manifest of the file can still be read.
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "nearest-colour"


def test_a_new_release_runs_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.30.0")
    backend = open_backend(model, backend="onnxruntime")
    backend.close()
