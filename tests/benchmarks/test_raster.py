"""The raster benchmark, in its short form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.raster import main, missed
from benchmarks.reporting.results import read_result
from tests.onnx_models import build_model

pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")


def test_throughput_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_model(tmp_path / "model.onnx", size=(128, 128))
    words = ["--model", tmp_path / "model.onnx", "--side", 300, "--runs", 1, "--backend", "onnxruntime"]
    words += ["--memory-sizes", 300, 310, "--json", tmp_path / "out.json", "--scratch", tmp_path]
    assert main([str(word) for word in words]) in (0, 1)
    shown = capsys.readouterr().out
    found = read_result(tmp_path / "out.json")["content"]
    throughput = found["throughput"]
    assert throughput["tiles"] == 9
    assert throughput["ratio"] == pytest.approx(
        throughput["bare_seconds"]["median"] / throughput["pipeline_seconds"]["median"], rel=0.05
    )
    assert set(found["memory"]["sizes"]) == {"300", "310"}
    assert "goal >= 0.95" in shown
    assert "goal <= 1.05" in shown
    assert str(tmp_path) not in json.dumps(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "out.json"]


def test_goals() -> None:
    assert not missed({"throughput": {"ratio": 0.95}, "memory": {"ratio": 1.05}})
    assert missed({"throughput": {"ratio": 0.94}})
    assert missed({"memory": {"ratio": 1.06}})
