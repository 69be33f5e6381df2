"""Options that TensorRT-RTX lacks, on a fake TensorRT: plugins, timing caches, DLA, and running the engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends.tensorrt.cuda import CudaPython
from emra_deploy.backends.tensorrt.sidecar import PASSED, Flags, Gpu, Plugin, read_sidecar
from emra_deploy.errors import EmraError
from export.build_engine import Engine, build_engine
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeRuntime
from tests.emra_deploy.backends.tensorrt.fake_tensorrt import (
    BuilderFlag,
    DeviceType,
    Fake,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    ProfilingVerbosity,
)
from tests.emra_deploy.backends.tensorrt.small_models import LINEARS, save_model
from tests.emra_deploy.backends.tensorrt.test_plugin_library import HERE, elf

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@dataclass
class Bench:
    """A pretended Jetson."""

    fake: Fake
    runtime: FakeRuntime
    folder: Path

    def build(self, **options: object) -> Engine:
        return build_engine(self.folder / "m.onnx", self.folder / "m.engine", **options)

    def refused(self, code: str, **options: object) -> EmraError:
        before = sorted(self.folder.iterdir())
        with pytest.raises(EmraError) as caught:
            self.build(**options)
        assert caught.value.code == code, caught.value
        assert sorted(self.folder.iterdir()) == before
        return caught.value


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(version: tuple[int, int, int, int] = (10, 3, 0, 30), precision: str = "fp32", **gpu: object) -> Bench:
        fake, runtime = Fake(version), FakeRuntime(**gpu)
        fake.runtime = runtime
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
        monkeypatch.setattr("export.build_engine.open_cuda", lambda: CudaPython(runtime))
        save_model(tmp_path / "m.onnx", precision)
        return Bench(fake, runtime, tmp_path)

    return made


@pytest.mark.parametrize(("version", "flags"), [((10, 3, 0, 30), 2), ((10, 16, 0, 1), 2), ((11, 1, 0, 1), 0)])
def test_networks_are_strongly_typed_in_every_release(
    make: Make, version: tuple[int, int, int, int], flags: int
) -> None:
    bench = make(version)
    engine = bench.build(max_batch=4)
    assert bench.fake.built.flags_of_network == flags
    assert ("--stronglyTyped" in engine.sidecar.command) == (version < (11,))
    assert engine.sidecar.command.startswith("trtexec ")
    assert bench.fake.built.profiling_verbosity is ProfilingVerbosity.DETAILED


def test_the_golden_tile_is_run_where_there_is_a_gpu(make: Make) -> None:
    bench = make()
    engine = bench.build()
    assert engine.sidecar.self_test.status == PASSED
    assert engine.sidecar.self_test.different == 0.0
    assert engine.sidecar.machine.gpu == Gpu("Orin", "8.7")
    assert engine.sidecar.memory.activations == 12345
    assert "self-test: passed, 0.0000% of the golden tile's pixels differ" in engine.lines
    assert bench.fake.loaded == 1
    assert not bench.runtime.device
    assert not bench.runtime.host


def test_an_engine_that_computes_wrongly_is_not_written(make: Make) -> None:
    bench = make(precision="fp16")
    bench.fake.wrong = lambda labels: (labels + 1) % 5
    error = bench.refused("self-test-failed")
    assert "issues 4723 and 4419" in error.cause
    assert not bench.runtime.device


def test_an_engine_that_does_not_run_is_not_written(make: Make) -> None:
    bench = make()
    bench.fake.refuse = True
    bench.refused("model-unreadable")


def test_the_precision_is_read_from_the_inspector(make: Make) -> None:
    bench = make(precision="int8")

    def layers(kind: str) -> str:
        entries = [
            {"Name": name, "LayerType": "gemm", "Inputs": [{"Datatype": kind}], "Metadata": f"[ONNX Layer: {name}]"}
            for name in LINEARS
        ]
        return json.dumps({"Layers": entries})

    bench.fake.inspector = layers("Half")
    error = bench.refused("precision-not-realised")
    assert "q (int8 asked, fp16 built)" in error.cause
    assert f"built {len(LINEARS)} of the matrix products" in error.cause
    bench.fake.inspector = layers("Int8")
    found = bench.build().sidecar.precision
    assert (found.source, found.counts) == ("engine inspector", {"int8": len(LINEARS)})


def test_an_engine_that_says_nothing_is_written_and_that_is_said(make: Make) -> None:
    engine = make().build()
    assert engine.sidecar.precision.source == "not readable"
    assert any("does not report its own" in line for line in engine.lines)


def test_options_reach_the_builder(make: Make) -> None:
    bench = make()
    bench.fake.cores = 2
    flags = Flags(hardware_compatible=True, version_compatible=True, dla=True, tf32=False, workspace=512 * 2**20)
    engine = bench.build(flags=flags, min_batch=1, opt_batch=2, max_batch=3)
    config = bench.fake.built
    assert config.flags == {BuilderFlag.VERSION_COMPATIBLE, BuilderFlag.GPU_FALLBACK}
    assert config.hardware_compatibility_level is HardwareCompatibilityLevel.AMPERE_PLUS
    assert (config.default_device_type, config.DLA_core) == (DeviceType.DLA, 0)
    assert config.pools == {MemoryPoolType.WORKSPACE: 512 * 2**20}
    assert [shape[0] for shape in config.profiles[0].shapes] == [1, 2, 3]
    for word in (
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
        "--useDLACore=0 --allowGPUFallback",
        "--noTF32",
        "--memPoolSize=workspace:512M",
        "--optShapes=image:2x32x32x3",
    ):
        assert word in engine.sidecar.command
    assert engine.sidecar.flags == flags


def test_plain_builds_set_nothing(make: Make) -> None:
    bench = make()
    bench.build()
    config = bench.fake.built
    assert (config.flags, config.pools) == ({BuilderFlag.TF32}, {})
    assert config.hardware_compatibility_level is HardwareCompatibilityLevel.NONE
    assert config.default_device_type is DeviceType.GPU


def test_a_board_without_a_dla_and_a_release_without(make: Make) -> None:
    bench = make()
    assert "no DLA" in bench.refused("dla", flags=Flags(dla=True)).cause
    bench.fake.version = (10, 13, 0, 35)
    sys.modules["tensorrt"] = bench.fake.module()
    assert "10.3 to 10.7" in bench.refused("build-option", flags=Flags(dla=True)).remedy


def test_timing_caches(make: Make) -> None:
    bench = make()
    cache = bench.folder / "timings.cache"
    engine = bench.build(timing_cache=cache)
    assert cache.read_bytes() == b"timings+"
    assert engine.sidecar.flags.timing_cache
    assert f"--timingCacheFile={cache}" in engine.sidecar.command
    bench.build(timing_cache=cache, overwrite=True)
    assert cache.read_bytes() == b"timings++"


@pytest.mark.parametrize(
    ("content", "reported"), [(b"garbage" * 50, "damaged"), (b"timings foreign", "another GPU or with another version")]
)
def test_timing_caches_that_are_damaged_or_foreign(make: Make, content: bytes, reported: str) -> None:
    bench = make()
    cache = bench.folder / "timings.cache"
    cache.write_bytes(content)
    error = bench.refused("timing-cache", timing_cache=cache)
    assert reported in error.cause
    assert error.path == str(cache)
    assert cache.read_bytes() == content


def test_timing_caches_that_cannot_be_read_or_made(make: Make) -> None:
    bench = make()
    bench.refused("timing-cache", timing_cache=bench.folder)
    bench.refused("output-folder-missing", timing_cache=bench.folder / "none" / "t.cache")


def with_operator(path: Path, body: bool) -> None:
    """Make the second half of the model a function of the domain, as an exporter does with the aggregation."""
    model = onnx.load(path)
    gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("emra", 1)]
    if body:
        inner = onnx.helper.make_node("Gelu", ["x"], ["y"])
        made = onnx.helper.make_function("emra", "AttentionAggregation", ["x"], ["y"], [inner], opsets)
        model.functions.append(made)
    model.opset_import.append(opsets[1])
    gelu.op_type, gelu.domain = "AttentionAggregation", "emra"
    onnx.save_model(model, path)


@pytest.mark.skipif(HERE is None, reason="a processor that TensorRT does not run on")
def test_a_plugin_takes_the_place_of_the_body(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    # The pretended engine is ONNX Runtime, which has no plugin for the operator.
    monkeypatch.setattr("export.build_engine.open_cuda", lambda: CudaPython(FakeRuntime(devices=0)))
    with_operator(bench.folder / "m.onnx", body=True)
    library = (bench.folder / "libemra_plugins.so").resolve()
    library.write_bytes(elf(HERE))
    engine = bench.build(plugin=library)
    assert bench.fake.libraries == [str(library)]
    [found] = engine.sidecar.plugins
    assert found == Plugin(str(library), found.sha256)
    # The file's body would win over the plugin in TensorRT 10.3, so it is taken out first.
    assert engine.sidecar.command.startswith("python -m export.rewrite_aggregation ")
    assert engine.sidecar.command.endswith(f" --dynamicPlugins={library}")
    parsed = onnx.ModelProto.FromString(bench.fake.built.onnx)
    assert not parsed.functions
    assert "AttentionAggregation" in {node.op_type for node in parsed.graph.node}
    noted = {value.name: value for value in parsed.graph.value_info}
    assert [dim.dim_value for dim in noted["gelu"].type.tensor_type.shape.dim[1:]] == [16, 64]
    sidecar = read_sidecar(bench.folder / "m.engine")
    assert sidecar is not None
    assert sidecar[0] == engine.sidecar
    bench.fake.libraries.clear()
    bench.fake.creators = ["SomethingElse"]
    assert "registers no AttentionAggregation" in bench.refused("plugin-abi", plugin=library, overwrite=True).cause


def test_without_a_plugin_the_body_is_put_in_place(make: Make) -> None:
    bench = make()
    with_operator(bench.folder / "m.onnx", body=True)
    assert bench.build().sidecar.self_test.status == PASSED
    parsed = onnx.ModelProto.FromString(bench.fake.built.onnx)
    assert {node.domain for node in parsed.graph.node} == {""}
    assert bench.fake.libraries == []


@pytest.mark.skipif(HERE is None, reason="a processor that TensorRT does not run on")
def test_a_plugin_for_nothing_or_that_is_none(make: Make) -> None:
    bench = make()
    library = bench.folder / "libemra_plugins.so"
    library.write_bytes(elf(HERE))
    bench.refused("plugin-unused", plugin=library)
    library.write_bytes(b"no library")
    bench.refused("plugin-format", plugin=library)
    library.unlink()
    bench.refused("plugin-missing", plugin=library)


def test_what_does_not_fit_is_not_built_unless_wanted(make: Make) -> None:
    bench = make(free=33_600_000)
    error = bench.refused("memory-forecast", max_batch=8)
    assert "at batch 8, and 33.6 MB of GPU memory are free" in error.cause
    assert bench.fake.built is None
    assert bench.build(max_batch=1, ignore_memory=True).lines[0].startswith("memory at batch 1")


def test_results_stay_the_models(make: Make) -> None:
    """A built engine gives ONNX Runtime's labels through the backend that a device uses."""
    from emra_deploy.backends.ort import OnnxRuntimeBackend
    from emra_deploy.backends.tensorrt.backend import TensorRTBackend
    from tests.onnx_models import scene

    bench = make()
    bench.build(max_batch=2)
    batch = np.stack([scene(32, 32, seed=seed) for seed in range(3)])
    engine = TensorRTBackend(bench.folder / "m.engine", cuda=CudaPython(bench.runtime))
    expected = OnnxRuntimeBackend(bench.folder / "m.onnx").run(batch)
    np.testing.assert_array_equal(engine.run(batch)["classes"], expected["classes"])
