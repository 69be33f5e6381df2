"""OpenVINO on damaged models: an answer or an EmraError, never another error."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from emra_deploy.backends.opening import open_backend
from emra_deploy.errors import EmraError
from tests.onnx_models import build_graph, build_model, make_manifest

pytest.importorskip("openvino")


def test_a_type_that_numpy_does_not_have_is_refused(tmp_path: Path) -> None:
    graph = build_graph((32, 32))
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    onnx.helper.set_model_props(graph, make_manifest(golden=False).to_metadata())
    path = tmp_path / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(EmraError) as caught:
        open_backend(path, backend="openvino")
    assert caught.value.code in {"model-mismatch", "model-unreadable"}
    assert caught.value.path == str(path)


def test_damaged_models_load_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_model(path, golden=False)
    content = path.read_bytes()
    # The Manifest lies behind the graph, and damage to it is found before OpenVINO sees anything.
    end = content.index(b"emra_manifest")
    dice, ran, places = random.Random(3), 0, set()
    for _ in range(60):
        damaged = bytearray(content)
        damaged[dice.randrange(end)] = dice.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            backend = open_backend(path, backend="openvino", threads=1)
            manifest = backend.manifest
            backend.run(np.zeros((1, *manifest.tile, 3), np.uint8))
            ran += 1
        except EmraError as error:
            places.add(error.path)
    assert 0 < ran < 60
    assert places == {str(path)}
