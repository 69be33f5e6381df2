"""Memory counted by hand, by ONNX Runtime's process and by TensorRT's builder, against the forecast."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends.tensorrt.device import FreeMemory
from emra_deploy.backends.tensorrt.forecast import Forecast, check_fits, check_load, smaller_sizes
from emra_deploy.backends.tensorrt.graph_memory import GraphMemory, measure_graph
from emra_deploy.errors import EmraError
from tests.conftest import FP32_MODEL
from tests.emra_deploy.backends.tensorrt.small_models import build_graph
from tests.onnx_models import make_manifest

onnx = pytest.importorskip("onnx")
helper, TensorProto, numpy_helper = onnx.helper, onnx.TensorProto, onnx.numpy_helper


def chain(*nodes: object, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]], **weights: object):
    """A graph of FP32 values."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", *values, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind: str, inputs: str, outputs: str, **attributes: object):
    return helper.make_node(kind, inputs.split(), outputs.split(), name=outputs.split()[0], **attributes)


def test_products_need_both_sides_at_once() -> None:
    model = chain(
        node("MatMul", "x w", "a"),
        node("MatMul", "a w", "b"),
        node("MatMul", "b w", "y"),
        inputs={"x": ["n", 8]},
        outputs={"y": ["n", 8]},
        w=np.zeros((8, 8), np.float32),
    )
    for batch in (1, 5):
        row = batch * 8 * 4
        assert measure_graph(model, batch) == GraphMemory(256, 2 * row, 0, 2 * row, "b", 0)


def test_views_and_elementwise_operators_take_no_room_of_their_own() -> None:
    model = chain(
        node("MatMul", "x w", "a"),
        node("Relu", "a", "b"),
        node("Reshape", "b shape", "c"),
        node("Add", "c c", "d"),
        node("MatMul", "d v", "y"),
        inputs={"x": [4, 8]},
        outputs={"y": [8, 1]},
        w=np.zeros((8, 8), np.float32),
        v=np.zeros((4, 1), np.float32),
        shape=np.asarray([8, 4]),
    )
    assert measure_graph(model, 1).activations == 4 * 8 * 4


def test_what_is_still_needed_is_not_written_over() -> None:
    model = chain(
        node("MatMul", "x w", "a"),
        node("Relu", "a", "b"),
        node("Sigmoid", "a", "c"),
        node("Concat", "b c", "y", axis=0),
        inputs={"x": [4, 8]},
        outputs={"y": [8, 8]},
        w=np.zeros((8, 8), np.float32),
    )
    assert measure_graph(model, 1).activations == 2 * 4 * 8 * 4


def test_what_is_made_of_constants_is_a_weight() -> None:
    model = chain(
        node("Cast", "half", "w", to=TensorProto.FLOAT),
        node("MatMul", "x w", "y"),
        inputs={"x": [4, 8]},
        outputs={"y": [4, 8]},
        half=np.zeros((8, 8), np.float16),
    )
    assert measure_graph(model, 1) == GraphMemory(256, 0, 0, 256, "", 0)


def test_precisions_take_their_bytes() -> None:
    sizes = {precision: measure_graph(build_graph(precision), 4) for precision in ("fp32", "fp16", "int8")}
    assert sizes["fp16"].weights < 0.6 * sizes["fp32"].weights
    assert sizes["int8"].weights < 0.8 * sizes["fp16"].weights
    assert {memory.io for memory in sizes.values()} == {4 * 32 * 32 * 4}
    assert all(memory.unknown == 0 for memory in sizes.values())


def test_functions_count_as_what_they_hold() -> None:
    model = chain(node("Twice", "x", "y", domain="emra"), inputs={"x": [4, 8]}, outputs={"y": [4, 8]})
    inner = [node("MatMul", "x w", "a"), node("MatMul", "a w", "y")]
    weight = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.zeros((8, 8), np.float32)))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("emra", 1)]
    model.functions.append(helper.make_function("emra", "Twice", ["x"], ["y"], [weight, *inner], opsets))
    model.opset_import.append(opsets[1])
    found = measure_graph(model, 1)
    assert (found.weights, found.activations) == (256, 128)


def test_the_aggregation_is_counted_with_its_body_and_without() -> None:
    """The body computes its sizes from attributes; without it they are those that the exporter noted."""
    from export.graphs.function_body import DOMAIN, DOMAIN_VERSION, OPERATOR, add_body, drop_body

    tokens, width = 205, 64
    made = helper.make_node(
        OPERATOR, ["q0", "q1"], ["gca"], domain=DOMAIN, name="gca", num_heads=1, num_class_tokens=5, scale=0.125
    )
    packed = ["n", tokens, 3 * width]
    model = chain(made, node("Relu", "gca", "y"), inputs={"q0": packed, "q1": packed}, outputs={"y": ["n", 5, 200]})
    model.graph.value_info.append(helper.make_tensor_value_info("gca", TensorProto.FLOAT, ["n", 5, 200]))
    model.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    add_body(model, width)
    inside = measure_graph(model, 2)
    assert inside.unknown == 0
    # Patch rows by all keys, twice: before and after softmax.
    assert inside.attention == 2 * 2 * 200 * tokens * 4
    drop_body(model)
    outside = measure_graph(model, 2)
    assert outside == GraphMemory(0, 2 * 5 * 200 * 4, 0, inside.io, "gca", 0)


def test_unknown_sizes_are_counted_and_said() -> None:
    model = chain(node("Wobble", "x", "a", domain="who"), node("Relu", "a", "y"), inputs={"x": [4]}, outputs={"y": [4]})
    model.opset_import.append(helper.make_opsetid("who", 1))
    found = measure_graph(model, 1)
    assert found.unknown == 1
    assert "1 values of unknown size" in Forecast(found, 1).describe()


LARGE = GraphMemory(1_000_000_000, 3_500_000_000, 3_000_000_000, 100_000_000, "softmax", 0)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    manifest = replace(make_manifest((512, 512)), aggregation="explicit")
    forecast = Forecast(LARGE, 4)
    check_fits(forecast, manifest, FreeMemory(6_000_000_000, "GPU"))
    with pytest.raises(EmraError) as caught:
        check_fits(forecast, manifest, FreeMemory(3_200_000_000, "shared"))
    assert caught.value.code == "memory-forecast"
    assert "needs up to 5.3 GB at batch 4, and 3.2 GB of shared memory are free" in caught.value.cause
    assert caught.value.remedy.startswith(
        "Use batch 1 or --size 416 416 when exporting or the streamed or the plugin form"
    )


def test_only_what_would_fit_is_advised() -> None:
    manifest = make_manifest((512, 512))
    assert smaller_sizes(Forecast(LARGE, 1), manifest, 1_200_000_000) == ["--size 160 160 when exporting"]
    assert smaller_sizes(Forecast(LARGE, 4), manifest, 500_000_000) == []
    assert smaller_sizes(Forecast(LARGE, 1), replace(manifest, aggregation="plugin"), 2_000_000_000) == [
        "--size 320 320 when exporting"
    ]
    with pytest.raises(EmraError, match="smaller backbone"):
        check_fits(Forecast(LARGE, 4), manifest, FreeMemory(500_000_000, "GPU"))


def test_loading() -> None:
    check_load(10, FreeMemory(10, "GPU"), "m.engine")
    with pytest.raises(EmraError) as caught:
        check_load(11, FreeMemory(10, "GPU"), "m.engine")
    assert caught.value.path == "m.engine"


MEASURE = """
import re, sys
import numpy as np
import onnxruntime as ort
def kib(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
image = np.zeros([int(sys.argv[2]), *session.get_inputs()[0].shape[1:]], np.uint8)
before = kib("VmRSS")
session.run(None, {"image": image})
print((kib("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_onnx_runtime_takes_what_is_forecast_times_a_constant(tmp_path: Path) -> None:
    """Its order of nodes is its own (it keeps up to four attention matrices where the file's order needs two)."""
    pytest.importorskip("onnxruntime")
    model = onnx.load(FP32_MODEL)
    for batch in (1, 4):
        command = [sys.executable, "-c", MEASURE, str(FP32_MODEL), str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        forecast = measure_graph(model, batch)
        assert forecast.unknown == 0
        assert 1.0 <= int(done.stdout) / forecast.activations <= 2.2
