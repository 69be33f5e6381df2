"""The TensorRT backend, on a TensorRT that runs ONNX Runtime and a CUDA on the processor's memory (see engine/)."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends import open_backend
from emra_deploy.backends.ort import OnnxRuntimeBackend
from emra_deploy.backends.trt import TensorRTBackend
from emra_deploy.cli.main import main
from emra_deploy.engine.cuda import CudaPython
from emra_deploy.engine.device import FreeMemory
from emra_deploy.engine.flavour import load_flavour
from emra_deploy.engine.sidecar import (
    NOT_RUN,
    Flags,
    Gpu,
    Machine,
    MemoryNeed,
    Plugin,
    Precision,
    Profile,
    SelfTest,
    Sidecar,
    sidecar_path,
    to_json,
)
from emra_deploy.errors import EmraError
from emra_deploy.manifest import Manifest
from emra_deploy.segmenter import Segmenter
from emra_deploy.selftest import self_test
from tests.emra_deploy.cli_helpers import save_png
from tests.emra_deploy.engine.fake_cuda import FakeRuntime
from tests.emra_deploy.engine.fake_tensorrt import Fake
from tests.emra_deploy.test_plugin_library import HERE, elf
from tests.onnx_models import build_model, nearest_colour, scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@dataclass
class Bench:
    """A pretended Jetson with one engine on it."""

    fake: Fake
    runtime: FakeRuntime
    onnx: Path
    engine: Path
    manifest: Manifest
    sidecar: Sidecar

    def cuda(self) -> CudaPython:
        return CudaPython(self.runtime)

    def save(self, **changes: object) -> None:
        """Write the sidecar, with some fields changed."""
        sidecar_path(self.engine).write_text(to_json(replace(self.sidecar, **changes), self.manifest))

    def refused(self, code: str, **options: object) -> EmraError:
        """Open the engine, which must fail before any of its code has run."""
        with pytest.raises(EmraError) as caught:
            TensorRTBackend(self.engine, cuda=self.cuda(), **options)
        assert caught.value.code == code, caught.value
        assert self.fake.loaded == 0
        assert not self.runtime.device
        return caught.value


Make = Callable[..., Bench]
Version = tuple[int, int, int, int]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A maker of benches; the keywords are those of `build_model`, and the batches of the engine."""

    def made(
        low: int = 1,
        high: int = 2,
        version: tuple[int, int, int, int] = (10, 13, 0, 35),
        integrated: bool = False,
        **model: object,
    ) -> Bench:
        fake, runtime = Fake(version), FakeRuntime(integrated=integrated)
        fake.runtime = runtime
        module = fake.module()
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(
            "emra_deploy.engine.flavour.importlib.util.find_spec", lambda name: name == "tensorrt" or None
        )
        monkeypatch.setattr("emra_deploy.backends.trt.open_cuda", lambda: CudaPython(runtime))
        onnx = tmp_path / "model.onnx"
        manifest = build_model(onnx, **model)
        engine = tmp_path / "model.engine"
        plan = fake.plan(onnx.read_bytes(), low, high)
        engine.write_bytes(plan)
        rest = (*manifest.tile, 3) if manifest.input_kind == "uint8" else (3, *manifest.tile)
        sidecar = Sidecar(
            sha256=hashlib.sha256(plan).hexdigest(),
            bytes=len(plan),
            flavour="tensorrt",
            version=module.__version__,
            machine=Machine(Gpu("Orin", "8.7"), "540.4.0", "6.2", "36.4.3", "aarch64"),
            plugins=(),
            profile=Profile((low, *rest), (high, *rest), (high, *rest)),
            flags=Flags(),
            precision=Precision("fp32", {"fp32": 1}, "engine inspector"),
            memory=MemoryNeed(1000, 2000, 3000),
            self_test=SelfTest(NOT_RUN, reason="no GPU"),
            onnx_sha256="0" * 64,
            command="trtexec --onnx=model.onnx",
        )
        bench = Bench(fake, runtime, onnx, engine, manifest, sidecar)
        bench.save()
        return bench

    return made


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
    with Segmenter.open(bench.engine, batch_size=2) as segmenter:
        assert segmenter.backend.name == "tensorrt"
        assert segmenter.backend.describe()["version"] == "10.13.0.35"
        assert segmenter.backend.describe()["device"] == "Orin (sm_87)"
        np.testing.assert_array_equal(segmenter.segment(picture).labels, nearest_colour(picture))


def test_an_engine_without_a_sidecar_is_not_loaded_unless_trusted(make: Make) -> None:
    bench = make()
    sidecar_path(bench.engine).unlink()
    assert "trust_engine" in bench.refused("engine-sidecar").remedy
    backend, manifest = open_backend(bench.engine, trust_engine=True)
    assert manifest == bench.manifest
    assert self_test(backend, manifest) == 0.0
    bench.onnx.unlink()
    with pytest.raises(EmraError) as caught:
        open_backend(bench.engine, trust_engine=True)
    assert caught.value.code == "manifest-missing"


def test_the_command_line_trusts_an_engine_only_when_told(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make()
    sidecar_path(bench.engine).unlink()
    picture = save_png(tmp_path / "a.png", scene(40, 40))
    arguments = ["segment", str(picture), "--model", str(bench.engine), "--output", str(tmp_path / "a.png.tif")]
    assert main(arguments) == 2
    assert "--trust-engine" in capsys.readouterr().err
    assert bench.fake.loaded == 0
    assert main([*arguments, "--trust-engine"]) == 0
    assert bench.fake.loaded == 1
    # Trusted or not, an engine that answers wrongly is refused.
    bench.fake.wrong = lambda labels: (labels + 1) % 5
    assert main([*arguments, "--trust-engine", "--overwrite"]) == 2
    assert "[self-test-failed]" in capsys.readouterr().err


def test_an_engine_that_is_not_the_sidecars_is_not_loaded(make: Make) -> None:
    bench = make()
    data = bytearray(bench.engine.read_bytes())
    data[-1] ^= 1
    bench.engine.write_bytes(data)
    assert "sha256" in bench.refused("engine-mismatch").cause
    bench.engine.write_bytes(data[:-5])
    assert "bytes" in bench.refused("engine-mismatch").cause


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no Manifest"),
        ('{"schema": 99, "manifest": {}}', "schema 99"),
    ],
)
def test_broken_sidecars(make: Make, text: str, told: str) -> None:
    bench = make()
    sidecar_path(bench.engine).write_text(text)
    error = bench.refused("engine-sidecar")
    assert told in error.cause
    assert error.path == str(sidecar_path(bench.engine))


def test_engines_of_other_releases(make: Make) -> None:
    bench = make(version=(10, 3, 0, 30))
    bench.fake.version = (10, 13, 0, 35)
    sys.modules["tensorrt"] = bench.fake.module()
    error = bench.refused("engine-version")
    assert "TensorRT 10.3.0.30" in error.cause
    assert "TensorRT 10.13.0.35" in error.cause
    bench.save(flags=Flags(version_compatible=True))
    TensorRTBackend(bench.engine).close()
    bench.fake.version, bench.fake.loaded = (10, 2, 0, 0), 0
    sys.modules["tensorrt"] = bench.fake.module()
    assert "older than 10.3" in bench.refused("tensorrt-version").cause
    bench.fake.version = (11, 1, 0, 0)
    sys.modules["tensorrt"] = bench.fake.module()
    bench.refused("engine-version")


def test_engines_of_another_flavour(make: Make) -> None:
    bench = make()
    bench.save(flavour="rtx")
    assert "TensorRT-RTX" in bench.refused("engine-flavour").cause
    bench.engine.write_bytes(b"vtrt" + bench.engine.read_bytes()[4:])
    data = bench.engine.read_bytes()
    bench.save(flavour="rtx", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    assert "TensorRT-RTX is installed" in bench.refused("backend-missing").cause


def test_engines_of_another_gpu(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    other = Machine(Gpu("NVIDIA H100", "9.0"), None, None, None, "x86_64")
    bench.save(machine=other)
    error = bench.refused("engine-gpu")
    assert "NVIDIA H100 (compute capability 9.0)" in error.cause
    assert "Orin (8.7)" in error.cause
    bench.save(machine=other, flags=Flags(hardware_compatible=True))
    TensorRTBackend(bench.engine).close()
    bench.save(machine=replace(other, gpu=Gpu("Orin Nano", "8.7")))
    TensorRTBackend(bench.engine).close()
    assert "slower" in caplog.text


def test_memory_is_looked_at_before_loading(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    bench.save(memory=MemoryNeed(2 * 10**9, 3 * 10**9, 10**8))
    monkeypatch.setattr("emra_deploy.backends.trt.free_memory", lambda cuda: FreeMemory(3_200_000_000, "shared"))
    error = bench.refused("memory-forecast")
    assert "needs 5.1 GB, and 3.2 GB of shared memory are free" in error.cause


def test_an_engine_that_does_not_deserialise(make: Make) -> None:
    bench = make()
    bench.fake.refuse = True
    with pytest.raises(EmraError, match="Error Code 1: Serialization") as caught:
        TensorRTBackend(bench.engine)
    assert caught.value.code == "model-unreadable"
    assert not bench.runtime.device


def test_an_engine_that_is_not_as_its_manifest_says(make: Make, tmp_path: Path) -> None:
    bench = make()
    bench.manifest = replace(bench.manifest, input_shape=(None, 48, 48), golden=None)
    bench.save()
    with pytest.raises(EmraError) as caught:
        TensorRTBackend(bench.engine)
    assert caught.value.code == "model-mismatch"
    assert not bench.runtime.device
    assert not bench.runtime.streams


def test_no_room_for_its_buffers(make: Make) -> None:
    bench = make(1, 2)
    bench.runtime._free = 6000
    bench.save(memory=MemoryNeed(None, None, 0))
    with pytest.raises(EmraError, match="out of memory") as caught:
        TensorRTBackend(bench.engine)
    assert caught.value.code == "gpu-memory"
    assert not bench.runtime.device
    assert not bench.runtime.host


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
        assert self_test(backend, backend.manifest) == pytest.approx(share / 1024)
    else:
        with pytest.raises(EmraError, match=r"0\.20%.* 0\.10% are allowed"):
            self_test(backend, backend.manifest)


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
        open_backend(bench.engine, name="onnxruntime")
    with pytest.raises(EmraError, match=r"tensorrt does not run \.onnx files: they are for onnxruntime, openvino, "):
        open_backend(bench.onnx, name="tensorrt")
    for content, code in ((b"", "model-unreadable"), (b"ftrt", "model-unreadable"), (b"x" * 100, "model-unreadable")):
        (tmp_path / "bad.engine").write_bytes(content)
        with pytest.raises(EmraError) as caught:
            open_backend(tmp_path / "bad.engine")
        assert caught.value.code == code
    with pytest.raises(EmraError) as caught:
        open_backend(tmp_path / "none.engine")
    assert caught.value.code == "model-missing"
