"""The TensorRT backend at work, on the pretended Jetson of trt_bench.py."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.ort import OnnxRuntimeBackend
from emra_deploy.backends.tensorrt.backend import TensorRTBackend
from emra_deploy.backends.tensorrt.flavour import load_flavour
from emra_deploy.backends.tensorrt.sidecar import (
    Plugin,
    sidecar_path,
)
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.segmenter import Segmenter
from emra_deploy.segmenting.selftest import self_test
from tests.emra_deploy.backends.tensorrt.test_plugin_library import HERE, elf
from tests.emra_deploy.backends.tensorrt.trt_bench import Make, make
from tests.onnx_models import nearest_colour, scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

__all__ = ["make"]  # The fixture.


@pytest.mark.parametrize(("low", "high", "fixed"), [(1, 1, 1), (1, 3, None), (2, 2, 2), (2, 4, None)])
def test_answers_as_onnx_runtime_does_for_any_batch(make: Make, low: int, high: int, fixed: int | None) -> None:
    bench = make(low, high)
    engine, reference = TensorRTBackend(bench.engine), OnnxRuntimeBackend(bench.onnx)
    assert engine.input_shape == (fixed, 32, 32)
    for count in (1, 2, 3, 5, 9):
        batch = np.stack([scene(32, 32, seed=seed) for seed in range(count)])
        found = engine.run(batch)
        assert found.keys() == {"classes"}
        assert found["classes"].dtype == np.uint8
        np.testing.assert_array_equal(found["classes"], reference.run(batch)["classes"])


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("heads", [("logits",), ("classes", "logits", "confidence")])
def test_all_heads_and_kinds_of_input(make: Make, kind: str, heads: tuple[str, ...]) -> None:
    bench = make(1, 2, heads=heads, input_kind=kind)
    batch = np.stack([scene(32, 32, seed=seed) for seed in range(3)])
    found, expected = TensorRTBackend(bench.engine).run(batch), OnnxRuntimeBackend(bench.onnx).run(batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        # Batches are cut otherwise, which changes the order of sums.
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_results_are_the_callers_own(make: Make) -> None:
    engine = TensorRTBackend(make().engine)
    first = engine.run(scene(32, 32, seed=1)[np.newaxis])["classes"]
    kept = first.copy()
    engine.run(scene(32, 32, seed=2)[np.newaxis])
    np.testing.assert_array_equal(first, kept)


def test_threads_may_share_one(make: Make) -> None:
    engine = TensorRTBackend(make().engine)
    pictures = [scene(32, 32, seed=seed) for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda picture: engine.run(picture[np.newaxis])["classes"][0], pictures))
    for picture, labels in zip(pictures, answers, strict=True):
        np.testing.assert_array_equal(labels, nearest_colour(picture))


def test_memory_is_reserved_once_and_given_back(make: Make) -> None:
    bench = make(1, 4)
    engine = TensorRTBackend(bench.engine)
    reserved = set(bench.runtime.device)
    engine.run(np.zeros((9, 32, 32, 3), np.uint8))
    assert set(bench.runtime.device) == reserved
    # Two lanes of an input and an output each, and the scratch memory.
    assert len(reserved) == 5
    engine.close()
    engine.close()
    assert not bench.runtime.device
    assert not bench.runtime.host
    assert not bench.runtime.streams
    assert not bench.runtime.events
    with pytest.raises(EmraError, match="closed"):
        engine.run(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_segmenter_runs_engines(make: Make) -> None:
    bench = make(1, 2)
    picture = scene(70, 90, seed=3)
    with Segmenter.open(bench.engine, batch=2) as segmenter:
        assert segmenter.backend.name == "tensorrt"
        assert segmenter.backend.describe()["version"] == "10.13.0.35"
        assert segmenter.backend.describe()["device"] == "Orin (sm_87)"
        np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))


@pytest.mark.parametrize(
    ("version", "precision", "known"),
    [((10, 3, 0, 30), "fp16", True), ((10, 13, 0, 35), "fp16", False), ((10, 3, 0, 30), "fp32", False)],
)
def test_wrong_results_are_refused_with_the_release_and_the_ways_out(
    make: Make, version: tuple[int, int, int, int], precision: str, known: bool
) -> None:
    bench = make(version=version, precision=precision)
    bench.fake.wrong = lambda labels: (labels + 1) % 5
    with pytest.raises(EmraError) as caught:
        Segmenter.open(bench.engine)
    error = caught.value
    assert error.code == "self-test-failed"
    assert "100.00%" in error.cause
    assert ("issues 4723 and 4419" in error.cause) == known
    assert f"tensorrt {'.'.join(map(str, version))}" in error.remedy
    assert "another version of TensorRT" in error.remedy
    assert ("LayerNormalization" in error.remedy) == (precision == "fp16")


@pytest.mark.parametrize(("precision", "share", "passes"), [("fp16", 1, True), ("fp16", 2, False), ("int8", 10, True)])
def test_a_precision_has_its_tolerance(make: Make, precision: str, share: int, passes: bool) -> None:
    bench = make(precision=precision)

    def slightly(labels: np.ndarray) -> np.ndarray:
        changed = labels.copy()
        changed.reshape(len(labels), -1)[:, :share] += 1
        return changed % 5

    bench.fake.wrong = slightly
    backend = TensorRTBackend(bench.engine)
    if passes:
        assert self_test(backend) == pytest.approx(share / 1024)
    else:
        with pytest.raises(EmraError, match=r"0\.20%.* 0\.10% are allowed"):
            self_test(backend)


@pytest.mark.skipif(HERE is None, reason="a processor that TensorRT does not run on")
def test_plugins_are_loaded_by_absolute_path_and_hash(make: Make) -> None:
    bench = make()
    library = bench.engine.with_name("libemra_plugins.so").resolve()
    library.write_bytes(elf(HERE))
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    bench.save(plugins=(Plugin(str(library), digest),))
    TensorRTBackend(bench.engine).close()
    assert bench.fake.libraries == [str(library)]
    plan = bench.engine.read_bytes()
    plugins = bench.fake.libraries.copy()
    built = TensorRTBackend.of_plan(plan, load_flavour(), bench.manifest, bench.cuda(), (Plugin(plugins[0], digest),))
    built.close()
    assert bench.fake.libraries == 2 * plugins
    bench.fake.libraries.clear()
    for path, sha256, code in ((library, "0" * 64, "plugin-hash"), (Path("/none.so"), digest, "plugin-missing")):
        bench.save(plugins=(Plugin(str(path), sha256),))
        with pytest.raises(EmraError) as caught:
            TensorRTBackend(bench.engine)
        assert caught.value.code == code
        assert bench.fake.libraries == []
    content = json.loads(sidecar_path(bench.engine).read_text())
    content["plugins"][0]["path"] = "libplugin.so"
    sidecar_path(bench.engine).write_text(json.dumps(content))
    with pytest.raises(EmraError, match="absolute"):
        TensorRTBackend(bench.engine)


def test_names_and_formats(make: Make, tmp_path: Path) -> None:
    bench = make()
    with pytest.raises(EmraError, match=r"onnxruntime does not run \.engine files"):
        open_backend(bench.engine, backend="onnxruntime")
    with pytest.raises(EmraError, match=r"tensorrt does not run \.onnx files: they are for onnxruntime, openvino, "):
        open_backend(bench.onnx, backend="tensorrt")
    for content, code in ((b"", "model-unreadable"), (b"ftrt", "model-unreadable"), (b"x" * 100, "model-unreadable")):
        (tmp_path / "bad.engine").write_bytes(content)
        with pytest.raises(EmraError) as caught:
            open_backend(tmp_path / "bad.engine")
        assert caught.value.code == code
    with pytest.raises(EmraError) as caught:
        open_backend(tmp_path / "none.engine")
    assert caught.value.code == "model-missing"
