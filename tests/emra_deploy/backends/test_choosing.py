"""The choice of ``auto``, and its reasons."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends import choose
from emra_deploy.backends.choose import FEW_TILES, choose_on_processor
from emra_deploy.backends.metadata import peek_manifest
from emra_deploy.backends.names import BACKENDS, GPU_PROVIDERS
from emra_deploy.backends.opening import explain, open_auto, open_backend, soonest
from emra_deploy.backends.providers import PROVIDERS
from emra_deploy.errors import EmraError
from emra_deploy.maps.tiles import estimate_tiles
from emra_deploy.pictures.sources import ArraySource
from emra_deploy.pictures.windows import iter_tiles
from emra_deploy.segmenting.segmenter import Segmenter
from tests.emra_deploy.backends.fake_onnxruntime import CPU, Fake
from tests.emra_deploy.cli.cli_helpers import emra, save_png
from tests.onnx_models import build_model, nearest_colour, scene

pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    build_model(path)
    return path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that can be imported, to be changed by the test."""
    names = {"onnxruntime", "openvino", "onnx"}
    monkeypatch.setattr(choose, "_importable", lambda name: name in names)
    return names


def simulate(monkeypatch: pytest.MonkeyPatch, *available: str) -> Fake:
    fake = Fake(*available)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake.module())
    return fake


@pytest.mark.parametrize(
    ("lacking", "tiles", "precision", "expected", "reason"),
    [
        ((), None, None, "openvino", "faster one for fp32"),
        ((), FEW_TILES + 1, None, "openvino", "faster one"),
        ((), FEW_TILES, None, "onnxruntime", f"{FEW_TILES} tiles sooner"),
        ((), 1, "bf16", "openvino", "compute in bf16"),
        (("openvino",), None, None, "onnxruntime", "openvino not installed"),
        (("onnx",), None, None, "onnxruntime", "onnx not installed"),
        (("openvino", "onnx"), None, None, "onnxruntime", "openvino and onnx not installed"),
        (("onnxruntime",), 1, None, "openvino", "onnxruntime: not installed"),
    ],
)
def test_on_a_processor(
    model: Path,
    installed: set[str],
    lacking: tuple[str, ...],
    tiles: int | None,
    precision: str | None,
    expected: str,
    reason: str,
) -> None:
    installed.difference_update(lacking)
    choice = choose_on_processor(model, precision=precision, tiles=tiles)
    assert choice.name == expected
    assert reason in choice.describe()
    assert choice.passed_over


def test_a_simulated_gpu_is_preferred(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = simulate(monkeypatch, "TensorrtExecutionProvider", "CUDAExecutionProvider")
    with caplog.at_level(logging.INFO, logger="emra_deploy"):
        backend, choice = open_auto(model)
    assert backend.name == choice.name == "onnxruntime-cuda"
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("backend ")]
    assert line == f"backend {choice.describe()}"
    for other in ("onnxruntime-tensorrt: it would build an engine", "onnxruntime-tensorrt-rtx: not installed"):
        assert other in line
    assert "onnxruntime-cuda, where it finds a GPU; otherwise" in explain(model)
    assert len(fake.asked) == 1
    picture = scene(32, 32)
    np.testing.assert_array_equal(backend.run(picture[None])["classes"][0], nearest_colour(picture))


def test_a_simulated_folder_for_engines_makes_tensorrt_worth_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    simulate(monkeypatch, "TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert open_auto(model, engine_cache=tmp_path / "engines")[1].name == "onnxruntime-tensorrt"


def test_a_simulated_provider_without_a_gpu_is_passed_over_with_its_reason(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = simulate(monkeypatch, "CUDAExecutionProvider")
    fake.refusal = RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
    backend, choice = open_auto(model, tiles=1)
    assert backend.name == "onnxruntime"
    assert "onnxruntime-cuda: " in choice.describe()
    assert "no CUDA-capable device" in choice.describe()
    fake.refusal = None
    model.write_bytes(model.read_bytes()[:300])
    with pytest.raises(EmraError) as caught:
        open_auto(model)
    assert caught.value.code == "model-unreadable"


def test_a_simulated_provider_takes_no_precision(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    simulate(monkeypatch, "CUDAExecutionProvider")
    backend, choice = open_auto(model, precision="fp32")
    assert backend.describe()["precision"] == "f32"
    assert "onnxruntime-cuda: it computes in what the graph says" in choice.describe()
    for name in ("onnxruntime", "onnxruntime-cuda"):
        with pytest.raises(EmraError) as caught:
            open_backend(model, backend=name, precision="bf16")
        assert caught.value.code == "backend-precision"


def test_files_that_are_no_models_are_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    for ask in (open_auto, explain, soonest):
        with pytest.raises(EmraError) as caught:
            ask(tmp_path / "model.pt")  # type: ignore[operator]
        assert caught.value.code == "model-format"
    with pytest.raises(EmraError) as caught:
        open_auto(tmp_path / "none.onnx")
    assert caught.value.code == "model-missing"
    assert soonest(tmp_path / "a.plan") == "tensorrt"
    assert explain(tmp_path / "a.plan") == "tensorrt, which runs engines"


def test_the_manifest_is_read_without_a_library(model: Path) -> None:
    assert peek_manifest(model) == open_backend(model, backend="onnxruntime").manifest
    content = model.read_bytes()
    for damaged in (b"", b"hello", content[: len(content) // 2], content[:-5]):
        model.write_bytes(damaged)
        assert peek_manifest(model) is None
    assert peek_manifest(model.with_name("none.onnx")) is None


@pytest.mark.parametrize(("height", "width", "halo"), [(1, 1, None), (32, 33, None), (500, 70, 5), (64, 64, 0)])
def test_tiles_are_counted_as_they_are_made(model: Path, height: int, width: int, halo: int | None) -> None:
    source = ArraySource(np.zeros((height, width, 3), np.uint8))
    segmenter = Segmenter(open_backend(model, backend="onnxruntime"), halo=halo)
    made = sum(1 for _ in iter_tiles(height, width, 32, 32, segmenter.halo))
    assert estimate_tiles(source, model, halo, blend=False) == made
    assert estimate_tiles(source, model, 16, blend=False) is None


def test_the_names_are_those_of_the_providers() -> None:
    assert set(GPU_PROVIDERS) == set(PROVIDERS)
    assert len(set(BACKENDS)) == len(BACKENDS)
    assert CPU not in {provider.ep for provider in PROVIDERS.values()}


def test_the_command_line_tells_when_asked(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    picture = save_png(tmp_path / "a.png", scene(40, 40))
    quiet = emra("segment", picture, "--output", tmp_path / "a.tif", "--model", model, "--backend", "auto")
    reported = emra("segment", picture, "--output", tmp_path / "b.tif", "--model", model, "--verbose", "--json")
    assert (quiet.returncode, reported.returncode) == (0, 0), reported.stderr
    assert "backend" not in quiet.stderr
    line = next(line for line in reported.stderr.splitlines() if "backend " in line)
    assert line.startswith("emra: INFO: backend onnxruntime, which ")
    assert json.loads(reported.stdout)["backend"]["backend"] == "onnxruntime"
    for verb in (("info", model), ("doctor", "--model", model)):
        shown = emra(*verb)
        assert shown.returncode == 0
        assert "passed over:" in shown.stdout
    refused = emra(
        "segment", picture, "--output", tmp_path / "c.tif", "--model", model, "--backend", "onnxruntime-cuda"
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("emra: ")
    assert "CPUExecutionProvider" in refused.stderr
