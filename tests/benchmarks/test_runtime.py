"""The runtime benchmark: its inputs are as described, and its figures are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import runtime
from benchmarks.runtime import interleaved, measure, sample_raster


def test_runs_are_interleaved_and_the_first_is_thrown_away() -> None:
    order: list[str] = []

    def note(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = interleaved({"a": lambda: note("a"), "b": lambda: note("b")}, 2)
    assert order == ["a", "b"] * 3
    assert results == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_sample_raster_has_no_empty_block(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    sample_raster(tmp_path / "a.tif", 700)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert (raster.width, raster.height, raster.count) == (700, 700, 3)
        assert raster.block_shapes[0] == (512, 512)
        assert raster.crs.is_projected
        assert raster.read().std(axis=(1, 2)).min() > 10
        for column in range(2):
            for row in range(2):
                assert raster.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1) is not None


@pytest.mark.slow
def test_all_parts(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pytest.importorskip("rasterio")
    from tests.onnx_models import build_model

    build_model(tmp_path / "model.onnx", size=(128, 128))
    report = measure(tmp_path / "model.onnx", runs=1, raster_sizes=(600, 900))
    assert report["import"]["seconds"]["median"] < 5
    assert report["cold"]["seconds"]["median"] > 0
    assert report["overhead"]["pixels"] == [2048, 2048]
    assert report["overhead"]["ratio"] > 0
    assert report["raster"]["sizes"]["900"]["peak_bytes"] > 20 * 2**20
    assert report["raster"]["ratio"] >= 1


def test_a_failing_process_is_reported_in_its_own_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"no model")
    assert runtime.main(["--model", str(model), "--skip", "import", "cold", "raster", "--runs", "1"]) == 2
    shown = capfd.readouterr().err
    assert "[model-unreadable]" in shown
    assert "Traceback" not in shown
