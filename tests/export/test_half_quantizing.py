"""Files of INT8 and FP16 with an ONNX Runtime that truncates: refused before the work, compared in another backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from emra_deploy.errors import EmraError
from export.compare.runners import open_runner
from export.to_int8 import check_arguments
from tests.onnx_models import build_graph, make_manifest


@pytest.fixture(autouse=True)
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")


def test_to_int8_refuses_before_the_work() -> None:
    check_arguments(Path("m.onnx"), "percentile", 99.99, "fp32")
    with pytest.raises(EmraError, match="no file of INT8 and FP16 can be checked") as caught:
        check_arguments(Path("m.onnx"), "percentile", 99.99, "fp16")
    assert caught.value.code == "backend-rounding"
    assert "--high-precision fp32" in caught.value.remedy


def test_files_are_compared_in_another_backend(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = build_graph((32, 32))
    made.graph.node.extend(
        [
            helper.make_node("Cast", ["bias"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("QuantizeLinear", ["half", "s"], ["levels"]),
        ]
    )
    made.graph.initializer.append(numpy_helper.from_array(np.float16(0.03), "s"))
    helper.set_model_props(made, make_manifest().to_metadata())
    onnx.save_model(made, tmp_path / "m.onnx")
    assert open_runner(tmp_path / "m.onnx").name == "openvino"
    with pytest.raises(EmraError) as caught:
        open_runner(tmp_path / "m.onnx", backend="onnxruntime")
    assert caught.value.code == "backend-rounding"
    assert caught.value.path == str(tmp_path / "m.onnx")
