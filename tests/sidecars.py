"""A complete sidecar of an engine, for tests."""

from __future__ import annotations

from emra_deploy.backends.tensorrt.sidecar import (
    PASSED,
    Flags,
    Gpu,
    Machine,
    MemoryNeed,
    Plugin,
    Precision,
    Profile,
    SelfTest,
    Sidecar,
)

FULL = Sidecar(
    sha256="a" * 64,
    bytes=123,
    flavour="tensorrt",
    version="10.3.0.30",
    machine=Machine(Gpu("Orin", "8.7"), "540.4.0", "6.2", "36.4.3", "aarch64"),
    plugins=(Plugin("/opt/emra/libemra_plugins.so", "b" * 64),),
    profile=Profile((1, 256, 256, 3), (2, 256, 256, 3), (4, 256, 256, 3)),
    flags=Flags(True, True, False, False, 2**30, True),
    precision=Precision("int8", {"int8": 49, "fp16": 16}, "engine inspector"),
    memory=MemoryNeed(6_000_000, None, 1_000_000),
    self_test=SelfTest(PASSED, 0.002),
    onnx_sha256="c" * 64,
    command="trtexec --onnx=m.onnx",
    tools={"emra-deploy": "0.1.0"},
)
