"""``emra doctor``, and its parsers on what real machines say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emra_deploy.cli.main import main
from emra_deploy.host.machine import (
    LIBRARIES,
    Library,
    jetpack_note,
    jetpack_of_release,
    parse_cpu_features,
    parse_cpu_model,
    parse_device_tree_model,
    parse_jetpack_package,
    parse_memory,
    parse_nvidia_smi,
    parse_tegra_release,
)
from tests.emra_deploy.cli.cli_helpers import emra
from tests.onnx_models import build_model

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9R14
flags\t\t: fpu vme avx avx2 avx512f avx512_bf16 avx512_vnni avx512_bitalg
"""
ORIN = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ilrcpc
CPU implementer\t: 0x41
"""
GRAVITON = "Features\t: fp asimd asimdhp asimddp sve i8mm bf16\n"


def test_processors() -> None:
    assert parse_cpu_model(EPYC) == "AMD EPYC 9R14"
    assert parse_cpu_features(EPYC) == ["AVX2", "AVX-512", "AVX-512 VNNI (INT8)", "AVX-512 BF16"]
    assert parse_cpu_model(ORIN) is None
    assert parse_cpu_features(ORIN) == ["NEON", "FP16", "INT8 dot product"]
    assert parse_cpu_features(GRAVITON) == ["NEON", "FP16", "INT8 dot product", "INT8 matrix", "BF16", "SVE"]
    assert parse_cpu_features("") == []


def test_memory() -> None:
    text = "MemTotal:        7802460 kB\nMemFree:          291456 kB\nMemAvailable:    3512000 kB\nHugePages_Total: 0\n"
    assert parse_memory(text) == (7802460 * 1024, 3512000 * 1024)
    assert parse_memory("") == (None, None)


def test_jetson() -> None:
    assert (
        parse_device_tree_model(b"NVIDIA Jetson Orin Nano Developer Kit\0") == "NVIDIA Jetson Orin Nano Developer Kit"
    )
    assert parse_device_tree_model(b"\0") is None
    text = (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 "
        "UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    )
    assert parse_tegra_release(text) == "36.4.3"
    assert parse_tegra_release("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref") == "35.4.1"
    assert parse_tegra_release("Ubuntu") is None


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [("36.4.3", "6.2"), ("36.4.0", "6.1"), ("36.3", "6.0"), ("36.3.0", "6.0"), ("38.2.1", "7.0"), ("38.4.0", "7.1")],
)
def test_known_jetpacks(release: str, jetpack: str) -> None:
    assert jetpack_of_release(release) == jetpack


def test_users_of_a_jetpack_are_warned_of_its_tensorrt() -> None:
    for old in ("5.1.2", "6.0", "6.0 developer preview"):
        assert "install JetPack 6.1" in (jetpack_note(old) or "")
    for guarded in ("6.1", "6.2", "6.2.1"):
        assert "self-test" in (jetpack_note(guarded) or "")
    for fine in ("7.0", "7.2", "", "unknown"):
        assert jetpack_note(fine) is None


@pytest.mark.parametrize("release", ["36.9", "36.4.99", "99.1", "36"])
def test_unknown_jetpacks_are_not_guessed(release: str) -> None:
    assert jetpack_of_release(release) is None


def test_jetpack_package() -> None:
    status = (
        "Package: nvidia-jetpack-dev\nStatus: install ok installed\nVersion: 9.9\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\nSection: metapackages\n"
        "Architecture: arm64\nVersion: 6.2+b77\nDepends: nvidia-jetpack-runtime (= 6.2+b77)\n\n"
        "Package: nvidia-l4t-core\nVersion: 36.4.3\n"
    )
    assert parse_jetpack_package(status) == "6.2"
    assert parse_jetpack_package("Package: bash\nVersion: 5.2\n") is None
    assert parse_jetpack_package("Package: nvidia-jetpack\nStatus: x\n\nPackage: bash\nVersion: 5.2\n") is None


def test_gpus() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.86.15, 9.0\nNVIDIA GeForce RTX 4090, 24564 MiB, 570.86.15, 8.9\n"
    assert parse_nvidia_smi(text) == [
        {"name": "NVIDIA H100 80GB HBM3", "memory": "81559 MiB", "driver": "570.86.15", "compute_capability": "9.0"},
        {"name": "NVIDIA GeForce RTX 4090", "memory": "24564 MiB", "driver": "570.86.15", "compute_capability": "8.9"},
    ]
    assert parse_nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") == []


def test_missing_library_is_none_and_says_how_to_get_it() -> None:
    assert Library("x", ("no_such_module",), ("no-such-package",), "", "").version() is None
    assert Library("x", ("no_such_parent.child",), ("no-such-package",), "", "").version() is None
    assert Library("json", ("json",), ("no-such-package",), "", "").version() == "unknown"
    assert all("install" in library.remedy for library in LIBRARIES)


def test_sound_machine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    build_model(tmp_path / "a.onnx")
    done = emra("doctor", "--model", tmp_path / "a.onnx", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["model"]["passed"]
    assert facts["model"]["different"] == 0
    assert set(facts["libraries"]) == {library.name for library in LIBRARIES}
    assert "CPUExecutionProvider" in facts["libraries"]["onnxruntime"]["providers"]
    assert facts["processor"]["usable_cores"] >= 1


def test_model_that_fails_its_self_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from emra_deploy.model_file.golden import GoldenTile
    from tests.onnx_models import make_manifest, nearest_colour, scene

    picture = scene(32, 32)
    wrong = GoldenTile.encode(picture, (nearest_colour(picture) + 1) % 5, 0.01)
    build_model(tmp_path / "a.onnx", manifest=replace(make_manifest(), golden=wrong))
    assert main(["doctor", "--model", str(tmp_path / "a.onnx")]) == 1
    shown = capsys.readouterr().out
    assert "self-test failed" in shown
    assert "emra-deploy" in shown
    assert main(["doctor", "--model", str(tmp_path / "none.onnx"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["model"]["error"]["code"] == "model-missing"
