"""A pretended Jetson: TensorRT that runs ONNX Runtime, and a CUDA on the processor's memory (see engine/)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from emra_deploy.backends.tensorrt.backend import TensorRTBackend
from emra_deploy.backends.tensorrt.cuda import CudaPython
from emra_deploy.backends.tensorrt.sidecar import (
    NOT_RUN,
    Flags,
    Gpu,
    Machine,
    MemoryNeed,
    Precision,
    Profile,
    SelfTest,
    Sidecar,
    sidecar_path,
    to_json,
)
from emra_deploy.errors import EmraError
from emra_deploy.model_file.manifest import Manifest
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeRuntime
from tests.emra_deploy.backends.tensorrt.fake_tensorrt import Fake
from tests.onnx_models import build_model


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
            "emra_deploy.backends.tensorrt.flavour.importlib.util.find_spec", lambda name: name == "tensorrt" or None
        )
        monkeypatch.setattr("emra_deploy.backends.tensorrt.backend.open_cuda", lambda: CudaPython(runtime))
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
