"""Identification of the machine of an engine: parsers on recorded texts, CUDA with both libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emra_deploy.backends.tensorrt import device
from emra_deploy.backends.tensorrt.cuda import UNUSABLE, Cuda, CudaPython, PyCuda, open_cuda
from emra_deploy.backends.tensorrt.device import (
    FreeMemory,
    describe_machine,
    free_memory,
    parse_driver,
    parse_mebibytes,
)
from emra_deploy.backends.tensorrt.faults import known_fault, way_out
from emra_deploy.backends.tensorrt.sidecar import Gpu
from emra_deploy.errors import EmraError
from emra_deploy.host.machine import parse_tegra_release
from tests.emra_deploy.backends.tensorrt.fake_cuda import FakeDriver, FakeRuntime

ORIN = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64,"
    " DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
)
THOR = (
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64,"
    " DATE: Fri Aug 22 00:55:42 UTC 2025\n"
)
MEMINFO = "MemTotal:        7802120 kB\nMemFree:          241384 kB\nMemAvailable:    3125000 kB\n"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a pretended machine without nvidia-smi."""
    found: dict[str, str] = {}
    monkeypatch.setattr(device, "_read", lambda path: found.get(path, ""))
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    return found


def test_a_jetson(files: dict[str, str]) -> None:
    files |= {"/etc/nv_tegra_release": ORIN, "/proc/meminfo": MEMINFO}
    files["/proc/driver/nvidia/version"] = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
    )
    machine = describe_machine(CudaPython(FakeRuntime()))
    assert machine.gpu == Gpu("Orin", "8.7")
    assert (machine.jetpack, machine.jetson_linux, machine.driver) == ("6.2", "36.4.3", "540.4.0")
    # Not CUDA's figure: what the kernel would give back from its caches counts too.
    assert free_memory(CudaPython(FakeRuntime(free=250_000_000))) == FreeMemory(3_125_000 * 1024, "shared")


def test_a_jetson_whose_package_says_more(files: dict[str, str]) -> None:
    files |= {"/etc/nv_tegra_release": THOR}
    files["/var/lib/dpkg/status"] = "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 7.0-b128\n"
    machine = describe_machine(None)
    assert (machine.jetpack, machine.jetson_linux, machine.gpu) == ("7.0", "38.2.0", None)
    assert parse_tegra_release(THOR) == "38.2.0"


def test_a_desktop(files: dict[str, str]) -> None:
    files["/proc/driver/nvidia/version"] = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )
    runtime = FakeRuntime(b"NVIDIA GeForce RTX 4090\0\0", (8, 9), free=20_000_000_000)
    machine = describe_machine(CudaPython(runtime))
    assert machine.gpu == Gpu("NVIDIA GeForce RTX 4090", "8.9")
    assert (machine.driver, machine.jetpack, machine.jetson_linux) == ("550.54.15", None, None)
    assert free_memory(CudaPython(runtime)) == FreeMemory(20_000_000_000, "GPU")


def test_a_machine_without_a_gpu(files: dict[str, str]) -> None:
    assert describe_machine(None).gpu is None
    assert free_memory(None) is None


def test_nvidia_smi_answers_where_no_cuda_library_is(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 80994 MiB, 550.54.15, 9.0'\n")
    program.chmod(0o755)
    monkeypatch.setattr(device.shutil, "which", lambda name: str(program))
    assert describe_machine(None).gpu == Gpu("NVIDIA H100 80GB HBM3", "9.0")
    assert describe_machine(None).driver == "550.54.15"
    assert free_memory(None) == FreeMemory(80994 * 2**20, "GPU")


def test_texts_that_say_nothing() -> None:
    assert parse_driver("") is None
    assert parse_mebibytes("[N/A]") is None
    assert parse_mebibytes("8123 MiB") == 8123 * 2**20


@pytest.fixture(params=["cuda-python", "pycuda"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    made: Cuda = CudaPython(FakeRuntime()) if request.param == "cuda-python" else PyCuda(FakeDriver())
    return made


def test_bytes_go_to_the_gpu_and_back(cuda: Cuda) -> None:
    stream, sent = cuda.stream(), cuda.host(64)
    address, received = cuda.device(64), cuda.host(64)
    sent[:] = np.arange(64)
    received[:] = 0
    cuda.upload(address, sent, stream)
    cuda.download(received[:32], address, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(received[:32], np.arange(32))
    assert not received[32:].any()
    cuda.free_device(address)
    cuda.free_host(sent)
    cuda.free_host(received)
    cuda.free_stream(stream)
    assert cuda.facts().sm == "8.7"


def test_too_much_memory_is_said(cuda: Cuda) -> None:
    with pytest.raises(EmraError, match="reserving") as caught:
        cuda.device(2**34)
    assert caught.value.code == "gpu-memory"


def test_pycuda_leaves_its_context_as_it_was() -> None:
    driver = FakeDriver()
    cuda = PyCuda(driver)
    with pytest.raises(EmraError):
        cuda.device(2**34)
    address, memory = cuda.device(16), cuda.host(16)
    assert driver.pushed == 0
    assert driver.alive == 2
    cuda.free_device(address)
    cuda.free_host(memory)
    assert driver.alive == 0


def test_no_gpu() -> None:
    for make in (lambda: CudaPython(FakeRuntime(devices=0)), lambda: PyCuda(FakeDriver(devices=0))):
        with pytest.raises(EmraError, match="no CUDA-capable device") as caught:
            make()
        assert caught.value.code == "no-gpu"


def test_the_real_library_says_when_there_is_no_gpu() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        assert open_cuda().facts().total > 0
        return
    with pytest.raises(EmraError) as caught:
        open_cuda()
    assert caught.value.code in UNUSABLE


@pytest.mark.parametrize(
    ("version", "precision", "known"),
    [
        ("10.3.0", "fp16", True),
        ("10.3.0.30", "int8", True),
        ("10.3.0", "fp32", False),
        ("10.4.0", "fp16", False),
        ("8.6.2", "fp16", False),
        ("unknown", "fp16", False),
    ],
)
def test_the_known_fault(version: str, precision: str, known: bool) -> None:
    fault = known_fault("tensorrt", version, precision)
    assert (fault is not None) == known
    assert known_fault("tensorrt-rtx", version, precision) is None
    if fault:
        assert "JetPack 6.1 and 6.2" in fault


def test_ways_out() -> None:
    assert "FP32" in way_out("tensorrt", "10.3.0", "fp16")
    assert "onnxruntime 1.31" in way_out("onnxruntime", "1.31", "fp32")
