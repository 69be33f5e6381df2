"""Engines that the TensorRT backend refuses, and its messages."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from emra_deploy.backends.opening import open_backend
from emra_deploy.backends.tensorrt.backend import TensorRTBackend
from emra_deploy.backends.tensorrt.device import FreeMemory
from emra_deploy.backends.tensorrt.sidecar import (
    Flags,
    Gpu,
    Machine,
    MemoryNeed,
    sidecar_path,
)
from emra_deploy.cli.main import main
from emra_deploy.errors import EmraError
from emra_deploy.segmenting.selftest import self_test
from tests.emra_deploy.backends.tensorrt.trt_bench import Make, make
from tests.emra_deploy.cli.cli_helpers import save_png
from tests.onnx_models import scene

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

__all__ = ["make"]  # The fixture.


def test_an_engine_without_a_sidecar_is_not_loaded_unless_trusted(make: Make) -> None:
    bench = make()
    sidecar_path(bench.engine).unlink()
    assert "trust_engine" in bench.refused("engine-sidecar").remedy
    backend = open_backend(bench.engine, trust_engine=True)
    manifest = backend.manifest
    assert manifest == bench.manifest
    assert self_test(backend) == 0.0
    bench.onnx.unlink()
    with pytest.raises(EmraError) as caught:
        open_backend(bench.engine, trust_engine=True)
    assert caught.value.code == "manifest-missing"


def test_the_command_line_trusts_an_engine_only_on_request(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rasterio")
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
    bench.engine.write_bytes(data)
    assert open_backend(bench.engine, trust_engine=True).manifest == bench.manifest


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no Manifest"),
        ('{"schema": 99, "manifest": {}}', "schema 99"),
    ],
)
def test_broken_sidecars(make: Make, text: str, reported: str) -> None:
    bench = make()
    sidecar_path(bench.engine).write_text(text)
    error = bench.refused("engine-sidecar")
    assert reported in error.cause
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
    assert "TensorRT-RTX is not installed" in bench.refused("backend-missing").cause


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
    monkeypatch.setattr(
        "emra_deploy.backends.tensorrt.backend.free_memory", lambda cuda: FreeMemory(3_200_000_000, "shared")
    )
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
